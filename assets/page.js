// What Gradio's components lack: folders and pasted pictures as uploads, and labels for screen readers and keyboards.
() => {
  // --- uploads: the drop zone of the visible tab takes files, folders and pictures from the clipboard, wherever they are dropped
  const FIELD = "input[type=file]", REST_MS = 200;
  const held = new Map(); // the last files given to a zone that was uploading others, which hides its field
  function upload(files) {
    const zone = [...document.querySelectorAll(".drop-zone")].find((one) => one.checkVisibility());
    const taken = files.filter((file) => !file.name.startsWith("."));
    if (!zone || !taken.length) return;
    if (zone.querySelector(FIELD)) return send(zone, taken);
    held.set(zone, taken);
    if (zone.id === "drop") announce(uploads.give());
  }
  function send(zone, files) {
    const field = zone.querySelector(FIELD), transfer = new DataTransfer();
    files.forEach((file) => transfer.items.add(file));
    field.files = transfer.files;
    field.dispatchEvent(new Event("change", { bubbles: true }));
  }
  let resting = null;
  function sendHeldLater() { // when the page rests: Gradio shows the field for a moment before it takes in what has arrived
    clearTimeout(resting);
    if (held.size) resting = setTimeout(sendHeld, REST_MS);
  }
  function sendHeld() {
    for (const [zone, files] of held) {
      if (!zone.querySelector(FIELD) || (zone.id === "drop" && uploads.sent !== null)) continue;
      held.delete(zone);
      send(zone, files);
    }
  }

  // --- the last input wins: uploads and examples are counted, and the server shows nothing of an earlier one
  const uploads = {
    given: 0, awaited: 0, sent: null,
    expected: () => uploads.awaited,
    give: () => (uploads.awaited = uploads.given += 1),
    // what has arrived, with its number; undefined if something newer was given since it was sent
    received(files) {
      const { sent } = uploads;
      uploads.sent = null;
      return sent === uploads.given ? [files, sent] : undefined;
    },
  };
  window.brainmri = uploads;
  function announce(number) {
    uploads.awaited = number;
    document.querySelector("#given").click();
    markReplaced();
  }
  document.addEventListener("change", (event) => {
    if (event.target.matches(`#drop ${FIELD}`) && event.target.files.length) announce((uploads.sent = uploads.give()));
  }, true);

  // --- an upload that failed is explained in the drop zone; Gradio only shows technical words in passing
  const CUT = "The upload failed: the connection was cut. Please check it and drop the files again.";
  const fetchAnything = window.fetch;
  window.fetch = async (resource, options) => {
    if (!/\/upload\?/.test(resource.url ?? resource)) return fetchAnything(resource, options);
    const zone = [...document.querySelectorAll(".drop-zone")].find((one) => one.checkVisibility());
    say(zone, "");
    try {
      const answer = await fetchAnything(resource, options);
      if (!answer.ok) failUpload(zone, await refusalOf(answer));
      return answer;
    } catch (error) {
      failUpload(zone, CUT);
      throw error;
    }
  };
  async function refusalOf(answer) { // the server says why in plain text; what a proxy says is a page
    const plain = answer.headers.get("content-type")?.startsWith("text/plain");
    return plain ? `The upload failed. ${await answer.clone().text()}` : `The upload failed (error ${answer.status}). Please try again later.`;
  }
  function failUpload(zone, sentence) {
    say(zone, sentence);
    if (zone.id !== "drop") return;
    uploads.sent = null;
    announce(0); // the earlier result is not replaced
  }
  function say(zone, sentence) {
    let message = zone.querySelector(".upload-message");
    if (!message && sentence) {
      message = Object.assign(document.createElement("p"), { className: "upload-message" });
      message.setAttribute("role", "alert");
      zone.append(message);
    }
    if (message) message.textContent = sentence;
  }
  const wait = (call) => new Promise(call);
  async function filesOf(entry) {
    if (entry.isFile) return [await wait((done, failed) => entry.file(done, failed))];
    const reader = entry.createReader(), found = [];
    for (let part; (part = await wait((done, failed) => reader.readEntries(done, failed))).length; ) found.push(...part);
    found.sort((one, other) => one.name.localeCompare(other.name, "en", { numeric: true })); // a list begins with 1, 2, 3
    return (await Promise.all(found.map(filesOf))).flat();
  }
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", async (event) => {
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
    if (!entries.length) return;
    event.preventDefault();
    event.stopPropagation();
    upload((await Promise.all(entries.map(filesOf))).flat());
  }, true);
  document.addEventListener("paste", (event) => upload([...event.clipboardData.files]));

  // --- an earlier result is dimmed and cannot be used from the moment that something newer is given until that is answered
  const REPLACING = "The earlier result is being replaced.";
  function markReplaced() {
    const box = document.querySelector("#verdict"), results = document.querySelector("#results");
    const tracker = box?.querySelector("[data-testid=status-tracker]:not(.hide)"); // Gradio's, while an analysis waits or runs
    const answered = Number(box?.querySelector("[data-upload]")?.dataset.upload ?? 0);
    const awaits = uploads.awaited > 0 && uploads.awaited !== answered;
    const replacing = awaits || Boolean(tracker && !box.querySelector("[data-refused]")); // nothing is analysed after a refusal
    let message = box?.querySelector(".replacing-message");
    if (box && !message) {
      message = Object.assign(document.createElement("p"), { className: "replacing-message" });
      message.setAttribute("aria-live", "polite");
      box.append(message);
    }
    if (message && message.textContent !== (replacing ? REPLACING : "")) message.textContent = replacing ? REPLACING : "";
    document.querySelector("#panes")?.classList.toggle("replacing", replacing);
    if (!results) return;
    // a shorter result would scroll the page under a visitor who looks at its end; the next input gives the room back
    if (replacing && !results.inert) results.style.minHeight = `${results.offsetHeight}px`;
    results.inert = replacing;
    if (replacing || !results.style.minHeight) return;
    const bottom = Math.max(...[...results.children].map((part) => part.getBoundingClientRect().bottom));
    if (bottom > innerHeight) results.style.minHeight = ""; // all that moves is below the screen
  }
  const giveRoomBack = (event) => {
    const results = document.querySelector("#results");
    if (event.isTrusted && results && !results.inert) results.style.minHeight = ""; // not by this script's own clicks
  };
  for (const input of ["click", "keyup"]) document.addEventListener(input, giveRoomBack); // not before, or a click would miss its button

  // --- the address of the API documentation, which Gradio reads without loading the documentation
  const viewsApi = () => new URLSearchParams(location.search).get("view") === "api";
  let apiWanted = viewsApi();
  function openApi() {
    const button = document.querySelector("footer .show-api");
    if (!button || !document.querySelector("main[data-ready]")) return;
    apiWanted = false;
    button.click(); // Gradio takes it for open, so this closes it
    setTimeout(() => { if (!viewsApi()) button.click(); }, 100);
  }

  // --- buttons of the box lead to fields: "change" beside the recognised sequence, and "Select the FLAIR"
  document.addEventListener("click", (event) => {
    if (event.target.closest(".select-flair")) document.querySelector("#sequences input").focus();
    if (!event.target.closest(".change-sequence")) return;
    document.querySelector("#settings > button:not(.open)")?.click();
    const focus = (tries) => { // the field is built when the accordion opens
      const field = document.querySelector("#sequence input");
      if (field) field.focus();
      else if (tries) setTimeout(() => focus(tries - 1), 50);
    };
    focus(100);
  });

  // --- Gradio focuses the selected thumbnail of a new gallery, which would scroll the page to it, past the table above
  const focusAnything = HTMLElement.prototype.focus;
  HTMLElement.prototype.focus = function (options) {
    if (!this.matches(".thumbnail-small")) return focusAnything.call(this, options);
    const active = document.activeElement, elsewhere = active && active !== document.body && !this.parentElement.contains(active);
    if (!elsewhere) focusAnything.call(this, { ...options, preventScroll: true });
  };

  // --- folded notes are printed too
  let unfolded = [];
  addEventListener("beforeprint", () => {
    unfolded = [...document.querySelectorAll("#verdict details:not([open])")];
    for (const notes of unfolded) notes.open = true;
  });
  addEventListener("afterprint", () => { for (const notes of unfolded) notes.open = false; });

  // --- on a phone, the examples are a strip: the chosen card is scrolled into sight, and the page stays where it is
  let chosenCard = null;
  function showChosenCard() {
    const card = document.querySelector("#examples .selected"), strip = card?.closest(".grid-container");
    if (card === chosenCard) return;
    chosenCard = card;
    if (!strip) return;
    const seen = strip.getBoundingClientRect(), place = card.getBoundingClientRect(), style = getComputedStyle(strip);
    const left = seen.left + parseFloat(style.paddingLeft), right = seen.right - parseFloat(style.paddingRight); // without the fade
    strip.scrollLeft += Math.max(0, place.right - right) + Math.min(0, place.left - left);
  }

  // --- accessibility, applied again whenever the page changes
  // result boxes, without the progress bar
  const announced = ":is(#verdict, #comparison-table, #selfcheck-answer) .html-container, #explanation .prose";
  const all = (selector) => document.querySelectorAll(selector);
  const words = (element) => element?.textContent.replace(/\s+/g, " ").trim();
  const set = (element, name, value) => {
    if (value !== undefined && element.getAttribute(name) !== value) element.setAttribute(name, value);
  };

  // what the first screen consists of is shown together (assets/head.html), so that nothing moves while the page is built
  function reveal() {
    const main = document.querySelector("main"), caption = document.querySelector("#viewer .viewer-caption");
    const examples = document.querySelector("#examples");
    const built = document.querySelector("#verdict .verdict") && (!examples || examples.querySelector("img"));
    if (!built || (caption && !words(caption))) return;
    set(main, "data-ready", "");
    performance.mark("first-screen");
  }

  function fix() {
    if (!document.querySelector("main[data-ready]")) reveal();
    if (apiWanted) openApi();
    sendHeldLater();
    markReplaced();
    showChosenCard();
    all(announced).forEach((box) => set(box, "role", "status"));
    // Gradio labels thumbnails "Thumbnail 1 of 6"
    all("button.thumbnail-item").forEach((button) => {
      const picture = button.querySelector("img");
      const caption = words(button.querySelector(".caption-label"));
      set(button, "aria-label", caption || picture?.title || undefined);
      if (picture && caption) set(picture, "alt", ""); // the caption says it
      set(button, "aria-pressed", button.matches(".thumbnail-small") ? String(button.matches(".selected")) : undefined);
    });
    // Gradio gives the button around a picture no name
    all("#comparison-pictures .preview > button").forEach((button) => {
      set(button, "aria-label", words(document.querySelector("#comparison-pictures [data-testid=block-label]")) || "Picture");
    });
    // Gradio words and labels every upload the same, and a file's link only by its size
    all("button.upload-container:not(.icon-mode)").forEach((button) => {
      const texts = [...(button.querySelector(".wrap")?.childNodes ?? [])].filter((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
      if (texts.length > 1) {
        texts.forEach((node, number) => { node.data = number ? "" : "Drop files here, or click to choose"; });
        button.querySelector(".or")?.replaceChildren();
      }
      const field = words(button.closest(".block").querySelector("[data-testid=block-label]"));
      set(button, "aria-label", `${field}: ${words(button.querySelector(".wrap"))}`);
    });
    all("a.download-link").forEach((link) => set(link, "aria-label", `${link.download}, ${words(link)}`));
    // Gradio's words for a lost connection and a refusal are for programmers
    all("[data-testid=toast-text]").forEach((text) => {
      const plain = words(text).replace(/^HTTP \d+: /, "").replace(/^Connection errored out\b.*/, "The connection was cut. Please check it and try again.");
      if (plain !== words(text)) text.textContent = plain;
    });
    // Gradio names each radio button differently, so the arrow keys would not move between them
    all("#items input[type=radio]").forEach((radio) => set(radio, "name", "items"));
    // Gradio names neither buttons nor boxes of its API documentation, and the keyboard does not reach the choice of language
    all(".api-docs button").forEach((button) => {
      if (!words(button)) set(button, "aria-label", button.title || (button.closest(".banner-wrap") ? "Close" : "Copy"));
    });
    all(".api-docs .tool-checkbox").forEach((box) => set(box, "aria-label", words(box.closest(".tool-header-wrapper")).split(" ")[0]));
    all(".api-docs li.snippet").forEach((choice) => {
      set(choice.parentElement, "role", "list");
      set(choice, "tabindex", "0");
      choice.onkeydown = (event) => { if (event.key === "Enter") choice.click(); };
    });
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
