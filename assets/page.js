// What Gradio's components leave out for those who hear the page or walk it by keyboard; mended again whenever it changes.
() => {
  // within what shows a result, without the progress beside it
  const announced = ":is(#verdict, #study-verdict, #answers, #selfcheck-answer) .html-container, #why .prose";
  const all = (selector) => document.querySelectorAll(selector);
  const words = (element) => element?.textContent.replace(/\s+/g, " ").trim();
  const set = (element, name, value) => {
    if (value !== undefined && element.getAttribute(name) !== value) element.setAttribute(name, value);
  };

  function mend() {
    all(announced).forEach((box) => set(box, "role", "status"));
    // a picture's button is called "Thumbnail 1 of 6"
    all("button.thumbnail-item").forEach((button) => {
      const picture = button.querySelector("img");
      set(button, "aria-label", words(button.querySelector(".caption-label")) || picture?.title || undefined);
      set(button, "aria-pressed", button.matches(".thumbnail-small") ? String(button.matches(".selected")) : undefined);
    });
    // an upload is called the same everywhere, and not as it reads; the link to what was uploaded by its size alone
    all("button.upload-container:not(.icon-mode)").forEach((button) => {
      const field = words(button.closest(".block").querySelector("[data-testid=block-label]"));
      set(button, "aria-label", `${field}: ${words(button.querySelector(".wrap"))}`);
    });
    all("a.download-link").forEach((link) => set(link, "aria-label", `${link.download}, ${words(link)}`));
    // the button for more files holds the button that works
    all("button.icon-button:has(button)").forEach((outer) => {
      set(outer, "role", "group");
      set(outer, "tabindex", "-1");
      set(outer, "aria-label", "More files");
      set(outer, "title", "More files");
    });
  }

  let asked = false;
  const soon = () => {
    if (!asked) requestAnimationFrame(() => { asked = false; mend(); });
    asked = true;
  };
  const seen = { subtree: true, childList: true, characterData: true, attributeFilter: ["aria-label", "class", "title"] };
  new MutationObserver(soon).observe(document.body, seen);
  mend();
}
