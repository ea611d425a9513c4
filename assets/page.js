// Accessibility fixes for Gradio's components, for screen readers and keyboards; applied again whenever the page changes.
() => {
  // result boxes, without the progress bar
  const announced = ":is(#verdict, #study-verdict, #comparison-table, #selfcheck-answer) .html-container, #explanation .prose";
  const all = (selector) => document.querySelectorAll(selector);
  const words = (element) => element?.textContent.replace(/\s+/g, " ").trim();
  const set = (element, name, value) => {
    if (value !== undefined && element.getAttribute(name) !== value) element.setAttribute(name, value);
  };

  function fix() {
    all(announced).forEach((box) => set(box, "role", "status"));
    // Gradio labels thumbnails "Thumbnail 1 of 6"
    all("button.thumbnail-item").forEach((button) => {
      const picture = button.querySelector("img");
      set(button, "aria-label", words(button.querySelector(".caption-label")) || picture?.title || undefined);
      set(button, "aria-pressed", button.matches(".thumbnail-small") ? String(button.matches(".selected")) : undefined);
    });
    // Gradio labels every upload the same, and a file's link only by its size
    all("button.upload-container:not(.icon-mode)").forEach((button) => {
      const field = words(button.closest(".block").querySelector("[data-testid=block-label]"));
      set(button, "aria-label", `${field}: ${words(button.querySelector(".wrap"))}`);
    });
    all("a.download-link").forEach((link) => set(link, "aria-label", `${link.download}, ${words(link)}`));
    // the button for more files wraps the real button
    all("button.icon-button:has(button)").forEach((outer) => {
      set(outer, "role", "group");
      set(outer, "tabindex", "-1");
      set(outer, "aria-label", "More files");
      set(outer, "title", "More files");
    });
  }

  let scheduled = false;
  const schedule = () => {
    if (!scheduled) requestAnimationFrame(() => { scheduled = false; fix(); });
    scheduled = true;
  };
  const observed = { subtree: true, childList: true, characterData: true, attributeFilter: ["aria-label", "class", "title"] };
  new MutationObserver(schedule).observe(document.body, observed);
  fix();
}
