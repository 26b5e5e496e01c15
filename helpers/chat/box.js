// The chat box in the browser: shows what helpers/chat/widget.py sends, and sends back what the user does.
// No library, no network.  The HTML of answers is made safe in Python; all other text is set as text.

const WAIT_SHOWN_AFTER = 400; // milliseconds without a reply
const GONE = { restarting: "was restarted:", autorestarting: "was restarted:" }; // by the user; after it died
Object.assign(GONE, { dead: "has died: restart it, then", terminating: "was shut down: start it, then" });
const STICKY = 24; // pixels: this close to its end, the log scrolls with the answer
const NOTE_SHOWN = 4000; // milliseconds
const LONGEST_FILE = 200_000; // bytes
const BLOCKS = "p, li, h3, h4, h5, h6, blockquote, th, td"; // each has the direction of its own words
const WIDE = "table, pre, math[display=block]";
const HINT = "Enter sends, Shift+Enter starts a new line, ↑ edits the last message";
const BUSY_HINT = "Escape stops the answer; you can type meanwhile";
const LOADING_HINT = "The model is being loaded; you can type meanwhile";
const XRAY_HINT =
  "The warmer the colour, the less likely the token. Dotted line below: under 50 %. Line above: from a draft. " +
  "Select a token to see its alternatives.";

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const makeButton = (name, onclick, properties = {}) =>
  make("button", { type: "button", textContent: name, onclick, ...properties });

// Make the children of `old` equal to those of `fresh`; equal nodes stay, so nothing flickers and a selection survives.
function patch(old, fresh) {
  const [before, after] = [[...old.childNodes], [...fresh.childNodes]];
  after.forEach((node, i) => {
    const was = before[i];
    if (!was) old.append(node);
    else if (was.isEqualNode(node)) return;
    else if (node.nodeType === Node.TEXT_NODE && was.nodeType === Node.TEXT_NODE) {
      if (node.data.startsWith(was.data)) was.appendData(node.data.slice(was.length));
      else was.data = node.data;
    } else if (was.cloneNode(false).isEqualNode(node.cloneNode(false))) patch(was, node);
    else was.replaceWith(node);
  });
  before.slice(after.length).forEach((node) => node.remove());
}

function patchHTML(node, html) {
  const template = document.createElement("template"); // its content is inert: nothing loads or runs
  template.innerHTML = html;
  template.content.querySelectorAll(BLOCKS).forEach((block) => (block.dir = "auto"));
  template.content.querySelectorAll(WIDE).forEach((block) => (block.tabIndex = 0)); // arrow keys scroll it
  patch(node, template.content);
}

const isSave = (event) => (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "s"; // JupyterLab gets it

// Enter and Escape in a text area.  Enter that ends the composition of a character (Chinese, Japanese) is left alone.
function onKeys(area, enter, escape) {
  area.addEventListener("keydown", (event) => {
    const enters = event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229; // Safari
    const action = enters ? enter : event.key === "Escape" ? escape : null;
    if (!action) return;
    event.preventDefault();
    action();
  });
}

// Roving tabindex: arrow keys move within a group of buttons, which is a single stop for Tab.
function rove(group) {
  const buttons = [...group.querySelectorAll("button")];
  buttons.forEach((one, i) => (one.tabIndex = i ? -1 : 0));
  group.addEventListener("keydown", (event) => {
    const at = buttons.indexOf(document.activeElement);
    const [back, on, last] = [at - 1, at + 1, buttons.length - 1];
    const to = { ArrowRight: on, ArrowDown: on, ArrowLeft: back, ArrowUp: back, Home: 0, End: last };
    const next = at >= 0 && buttons[to[event.key]];
    if (!next) return;
    event.preventDefault();
    buttons.forEach((one) => (one.tabIndex = one === next ? 0 : -1));
    next.focus();
  });
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // The clipboard API needs https or localhost; elsewhere only this old method works.
    const area = make("textarea", { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

function download(name, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "text/plain" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const percent = (p) => (p < 0.001 ? "below 0.1 %" : `${(100 * p).toFixed(p < 0.1 ? 1 : 0)} %`);

// One message in the log.
class Card {
  constructor(view, number, role) {
    Object.assign(this, { view, number, role, shown: "" });
    const user = role === "user";
    const label = `${user ? "Your message" : "Answer"}, number ${number + 1}`; // distinguishes this card's buttons
    const text = () => this.message?.text ?? this.body.innerText; // a draft whose kernel is gone has no message
    const copy = makeButton("Copy", () => copyText(text()).then(() => view.notify("Copied.")));
    this.toggle = user ? makeButton("Edit", () => this.edit()) : makeButton("X-ray", () => this.toggleXray());
    this.stats = make("div", { className: "stats" });
    this.body = make("div", { className: "body", dir: user ? "auto" : "" });
    this.resume = makeButton("Continue", () => view.act("resume"), { hidden: true });
    this.thought = make("div");
    this.thinking = make("details", { className: "thought" }, make("summary", {}, "Thought"), this.thought);
    const step = (sign, by, which) =>
      makeButton(sign, () => this.switch(by), { "aria-label": `${which} version of ${label.toLowerCase()}` });
    this.version = make("span");
    const steps = [step("‹", -1, "Previous"), this.version, step("›", 1, "Next")];
    this.versions = make("span", { className: "versions", hidden: true }, ...steps);
    const tools = user ? [this.toggle, copy] : [this.resume, copy, this.toggle, this.stats];
    this.tools = make("div", { className: "tools" }, this.versions, ...tools);
    const parts = [this.thinking, this.body, this.tools];
    this.node = make("article", { className: `message ${role}`, "aria-label": label }, ...parts);
    this.showThought("");
    this.close();
  }

  show(message) {
    const shown = JSON.stringify(message);
    if (shown === this.shown) return;
    Object.assign(this, { shown, message });
    this.close();
    if (this.role === "user") this.body.textContent = message.text;
    else patchHTML(this.body, message.html);
    this.showThought(message.thought);
    this.stats.textContent = message.stats ?? "";
    this.toggle.hidden = message.xray === false;
    this.versions.hidden = !message.versions;
    this.version.textContent = message.versions?.join("/") ?? "";
    this.node.classList.remove("draft");
  }

  // Show the previous or next version, wrapping around at either end.
  switch(by) {
    const [shown, total] = this.message.versions;
    const version = ((shown - 1 + by + total) % total) + 1;
    this.view.stick = false; // otherwise the log would scroll away from this message
    this.view.request("switch", "the other version", { number: this.number, version });
  }

  // What the model generated before its answer, folded until the user opens it.
  showThought(text) {
    this.thinking.hidden = !text;
    if (this.thought.textContent !== text) this.thought.textContent = text ?? "";
  }

  showDraft(html, thought) {
    this.shown = "";
    this.close();
    this.node.classList.add("draft");
    this.stats.textContent = "";
    this.showThought(thought);
    patchHTML(this.body, html);
  }

  // Back to the message itself, from editing or X-ray.
  close() {
    this.panel?.remove();
    this.panel = this.options = null;
    this.body.hidden = this.tools.hidden = false;
    if (this.role === "assistant") this.toggle.setAttribute("aria-pressed", "false");
  }

  open(panel) {
    this.panel = panel;
    this.body.hidden = true;
    this.body.after(panel);
  }

  edit() {
    const area = make("textarea", { value: this.message.text, "aria-label": "Edit message", rows: 3, dir: "auto" });
    const cancel = () => (this.close(), this.toggle.focus());
    const done = () => (this.close(), this.view.input.focus());
    const save = () => {
      this.view.sent = area.value;
      this.view.request("edit", "your message", { number: this.number, text: area.value }, done);
    };
    onKeys(area, save, cancel);
    this.open(make("div", { className: "editing" }, area, makeButton("Save", save), makeButton("Cancel", cancel)));
    this.tools.hidden = true;
    area.focus();
  }

  toggleXray() {
    if (this.panel) return this.close();
    this.view.request("xray", "X-ray", { number: this.number }, (tokens) => {
      this.close(); // a second request may have been faster
      this.open(this.xray(tokens));
      this.toggle.setAttribute("aria-pressed", "true");
      this.view.follow();
    });
  }

  xray(tokens) {
    const chips = tokens.map((token, position) => chip(token, () => this.choose(chips[position], token, position)));
    const group = make("div", { className: "tokens", role: "group", "aria-label": "Tokens" });
    chips.forEach((one) => group.append(one, ...(one.textContent.endsWith("⏎") ? [make("br")] : [])));
    rove(group);
    const onkeydown = (event) => {
      if (event.key !== "Escape" || !this.options) return;
      event.preventDefault();
      this.closeOptions().focus();
    };
    return make("div", { className: "xray", onkeydown }, make("p", { className: "hint" }, XRAY_HINT), group);
  }

  // Show the alternatives of a token in a panel below it, or close that panel.
  choose(at, token, position) {
    if (this.closeOptions() === at) return;
    at.setAttribute("aria-expanded", "true");
    const done = () => this.view.input.focus();
    const branch = ({ id }) =>
      this.view.request("branch", "your choice", { number: this.number, position, token_id: id }, done);
    const options = token.options.map((option) => alternative(option, token, () => branch(option)));
    const label = `Instead of ${token.text}`;
    this.options = make("div", { className: "options", role: "group", "aria-label": label }, ...options);
    rove(this.options);
    this.panel.append(this.options);
    const space = this.panel.clientWidth - this.options.offsetWidth;
    this.options.style.left = `${Math.max(0, Math.min(at.offsetLeft, space))}px`;
    this.options.style.top = `${at.offsetTop + at.offsetHeight + 4}px`;
    this.options.scrollIntoView({ block: "nearest" });
    options[0]?.focus({ preventScroll: true });
  }

  // Close the panel of alternatives; return the token that it belonged to, if it was open.
  closeOptions() {
    const at = this.panel.querySelector("[aria-expanded=true]");
    at?.setAttribute("aria-expanded", "false");
    this.options?.remove();
    this.options = null;
    return at;
  }
}

function chip({ text, kind, probability, drafted }, onclick) {
  const share = percent(probability) + (drafted ? ", from a draft" : "");
  const node = makeButton(text, onclick, { title: share, "aria-label": `${text}, ${share}`, "aria-expanded": "false" });
  node.className = `token ${kind} ${probability < 0.5 ? "unlikely" : ""} ${drafted ? "drafted" : ""}`;
  node.style.setProperty("--doubt", `${Math.round(100 * (1 - probability))}%`);
  return node;
}

function alternative({ id, text, kind, probability }, chosen, onclick) {
  const token = make("span", { className: `token ${kind}`, textContent: text });
  const current = id === chosen.id ? { "aria-current": "true" } : {};
  return make("button", { type: "button", onclick, ...current }, token, " ", make("span", {}, percent(probability)));
}

class View {
  constructor(model, el) {
    Object.assign(this, { model, el, cards: [], waiting: new Map(), note: "", stick: true, gone: "" });
    this.kernel = model.widget_manager?.kernel; // JupyterLab, Notebook and Voilà have it
    this.wasBusy = this.openedBusy = model.get("busy");
    this.build();
    this.listen();
    this.draw();
    if (this.wasBusy) this.request("draft", "the answer", {}, (draft) => draft && this.showDraft(draft));
  }

  build() {
    // The log itself is silent: a screen reader would read each piece of an answer.  `spoken` gets it when complete.
    const label = { role: "log", "aria-label": "Conversation", "aria-live": "off" };
    this.log = make("div", { className: "log", tabIndex: 0, ...label });
    this.latest = makeButton("Jump to latest", () => this.jump(), { className: "latest", hidden: true });
    this.empty = make("div", { className: "empty" });
    this.about = make("span", { className: "about" });
    const zoom = (sign, by, label) => makeButton(sign, () => this.zoom(by), { "aria-label": label });
    const zooms = [zoom("A−", 1 / 1.15, "Smaller text"), zoom("A+", 1.15, "Larger text")];
    const head = make("div", { className: "head" }, this.about, ...zooms);
    this.spoken = make("div", { className: "spoken", "aria-live": "polite" });
    this.divider = make("p", { className: "divider" }, "The messages above are no longer in the prompt.");
    this.input = make("textarea", { rows: 2, "aria-label": "Message", dir: "auto" });
    this.sendButton = makeButton("Send", () => this.submit(), { className: "send" });
    this.stopButton = makeButton("Stop", () => this.stop(), { className: "stop", "aria-keyshortcuts": "Escape" });
    // The progress changes each second, so it is not a live region; the status announces the start and the result.
    this.status = make("div", { className: "status", role: "status" });
    this.progress = make("div", { className: "progress" });
    this.details = makeButton("Details", () => this.toggleDetails(), { "aria-expanded": "false" });
    this.statusLine = make("div", { className: "status-line" }, this.progress, this.status, this.details);
    this.meter = make("meter", { min: 0, "aria-label": "Context" });
    this.used = make("span", { className: "used" });
    this.buttons = ["Undo", "Regenerate", "Export", "Clear"].map((name) => makeButton(name, () => this.act(name)));
    this.buttons[2].onclick = () => this.export("md");
    this.continue = makeButton("", () => this.openKept(this.model.get("last")), { className: "continue" });
    this.menuButton = makeButton("Conversations", () => this.toggleMenu(), { "aria-expanded": "false" });
    const exports = [["Markdown", "md"], ["JSON", "json"]];
    const exporting = exports.map(([name, format]) => makeButton(`Export as ${name}`, () => this.export(format)));
    this.kept = make("ul", { "aria-label": "Kept conversations" });
    this.menu = make("div", { className: "menu", hidden: true }, ...exporting, this.kept);
    const compose = make("div", { className: "compose" }, this.input, this.sendButton, this.stopButton);
    const context = make("span", { className: "context" }, "Context ", this.meter, " ", this.used);
    const foot = make("div", { className: "foot" }, context, ...this.buttons, this.menuButton);
    this.el.classList.add("ovchat");
    const view = make("div", { className: "view" }, this.log, this.latest);
    const parts = [head, view, this.continue, compose, this.statusLine, foot, this.menu, this.spoken];
    this.el.append(make("div", { className: "frame" }, ...parts));
    this.zoom(1);
  }

  listen() {
    this.log.addEventListener("scroll", () => {
      if (this.size !== this.logSize()) return this.follow(); // the window was resized; the user did not scroll
      this.latest.hidden = this.stick = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < STICKY;
    });
    this.log.addEventListener("click", ({ target }) => {
      if (!target.matches(".copy")) return;
      copyText(target.parentElement.querySelector("code").textContent).then(() => this.notify("Copied."));
    });
    onKeys(this.input, () => this.submit());
    this.input.addEventListener("keydown", (event) => {
      const last = this.cards.findLast(({ role }) => role === "user");
      if (event.key !== "ArrowUp" || this.input.value || this.model.get("busy") || this.gone || !last) return;
      event.preventDefault();
      last.close();
      last.edit();
    });
    this.input.addEventListener("input", () => this.grow());
    this.input.addEventListener("paste", (event) => {
      const { files } = event.clipboardData;
      if (files.length && !event.clipboardData.getData("text/plain")) this.insert(event, files);
    });
    this.el.addEventListener("dragover", (event) => event.preventDefault());
    this.el.addEventListener("drop", (event) => {
      if (event.dataTransfer.files.length) this.insert(event, event.dataTransfer.files);
    });
    this.resized = new ResizeObserver(() => (this.grow(), this.drawStatus(), this.follow()));
    this.resized.observe(this.el);
    this.el.addEventListener("keydown", (event) => {
      // JupyterLab must not get the keys: Shift+Enter would run the cell again.
      if (!isSave(event)) event.stopPropagation();
      if (event.key === "Escape" && !event.defaultPrevented && this.model.get("busy")) this.stop();
    });
    // Notebook 7 sees the keys before this element does, and ignores them if their target has this attribute.
    // The settings, which are ipywidgets, are siblings of this element.
    const name = "data-lm-suppress-shortcuts";
    this.keys = (event) => {
      const box = this.el.closest(".widget-box") ?? this.el;
      const marked = [box, this.el, event.target].filter((node) => box.contains(node));
      marked.forEach((node) => (isSave(event) ? node.removeAttribute(name) : node.setAttribute(name, "true")));
    };
    this.keys({ target: this.el });
    window.addEventListener("keydown", this.keys, true);
    this.changed = () => this.draw();
    this.received = (message) => {
      if (message.type === "draft") this.showDraft(message.draft);
      else if (message.type === "refused") this.takeBack(message.text);
      else this.replied(message);
    };
    this.model.on("change", this.changed);
    this.model.on("msg:custom", this.received);
    this.kernelChanged = (_, status) => GONE[status] && this.lose(`The kernel ${GONE[status]} run this cell again.`);
    this.kernel?.statusChanged?.connect(this.kernelChanged);
  }

  close() {
    this.model.off("change", this.changed);
    this.model.off("msg:custom", this.received);
    this.kernel?.statusChanged?.disconnect(this.kernelChanged);
    window.removeEventListener("keydown", this.keys, true);
    this.resized.disconnect();
    [this.noteTimer, ...[...this.waiting.values()].map(({ timer }) => timer)].forEach(clearTimeout);
  }

  // The kernel of this box no longer exists: unlock the controls, so that its text can be copied, and say what to do.
  lose(sentence) {
    this.gone = sentence;
    this.close();
    this.model.set({ busy: false, loading: false });
    this.waiting.clear();
    this.notify("");
    this.draw();
    this.cards.at(-1)?.node.classList.remove("draft"); // its text stays, without the cursor
  }

  // Send a request to the kernel; `done` gets the data of its reply.  `what` names it in the note about a late reply.
  request(type, what, fields = {}, done = () => {}) {
    if (this.gone) return this.notify("");
    const id = Math.random().toString(36).slice(2);
    const why = () => (this.kernel?.status === "busy" ? "is running another cell" : "has not replied yet");
    const timer = setTimeout(() => this.notify(`The kernel ${why()}; ${what} waits.`, true), WAIT_SHOWN_AFTER);
    this.waiting.set(id, { type, timer, done });
    this.model.send({ type, id, ...fields });
  }

  replied({ id, ok, data }) {
    const request = this.waiting.get(id);
    if (!request) return; // it is for a different view of this box
    clearTimeout(request.timer);
    this.waiting.delete(id);
    this.notify("");
    if (ok) request.done(data);
  }

  // Show a note of this view instead of the kernel's status: briefly or, if `lasting`, until the next note.
  notify(note, lasting = false) {
    this.note = note;
    this.drawStatus();
    clearTimeout(this.noteTimer);
    if (note && !lasting) this.noteTimer = setTimeout(() => this.notify(""), NOTE_SHOWN);
  }

  // Change the size of the text, within legible limits, and remember it in this browser.
  zoom(by) {
    const stored = Number(globalThis.localStorage?.getItem("ovchat-size")) || 1;
    const size = Math.min(2.5, Math.max(0.7, stored * by));
    globalThis.localStorage?.setItem("ovchat-size", size);
    (this.el.closest(".ovchat-box") ?? this.el).style.setProperty("--size", size);
    this.el.style.setProperty("--size", size);
  }

  jump() {
    this.stick = true;
    this.follow();
    this.input.focus();
  }

  write(text) {
    this.input.value = text;
    this.grow();
  }

  // The message field is as high as its text, up to the limit in the style sheet.
  grow() {
    if (!this.input.scrollHeight) return; // not displayed
    this.input.style.height = "auto";
    this.input.style.height = `${this.input.scrollHeight + 2}px`;
  }

  // Insert text files where the cursor is.  A file is read here and goes nowhere but into the field.
  async insert(event, files) {
    event.preventDefault();
    for (const file of files) {
      const picture = file.type.startsWith("image/");
      const text = picture || file.size > LONGEST_FILE ? "\0" : await file.text();
      if (picture) this.notify("This model cannot read pictures. Text files are inserted into the message.");
      else if (/[\0\ufffd]/.test(text)) this.notify(`${file.name} is not text, or larger than 200 kB: not inserted.`);
      else {
        const { selectionStart: start, selectionEnd: end } = this.input;
        this.input.setRangeText(`${file.name}:\n\n${text}\n`, start, end, "end");
      }
    }
    this.grow();
    this.input.focus();
  }

  submit(text = this.input.value) {
    if ([...this.waiting.values()].some(({ type }) => type === "submit")) return;
    const until = this.model.get("loading") ? "the model is loaded" : "the answer ends, or stop it";
    if (this.model.get("busy")) return this.notify(`Wait until ${until}. Your text stays here.`);
    [this.stick, this.sent] = [true, text];
    // The text stays in the field until the kernel has it, so that nothing is lost.
    this.request("submit", "your message", { text }, () => {
      const now = this.input.value;
      this.write(now.startsWith(text) ? now.slice(text.length) : now);
    });
    this.input.focus();
  }

  // Put the text of a message that was refused into the field of the view that sent it, or, after a reload, of this one.
  takeBack(text) {
    if (text === this.sent || this.openedBusy) this.write(`${text}\n${this.input.value}`.trimEnd());
  }

  stop() {
    this.request("stop", "Stop");
    this.input.focus();
  }

  act(name) {
    this.stick = this.stick || name === "Regenerate";
    this.request(name.toLowerCase(), name);
    this.input.focus();
  }

  export(format) {
    this.request("export", "Export", { format }, (text) => download(`conversation.${format}`, text));
  }

  toggleMenu(shown = this.menu.hidden) {
    this.menu.hidden = !shown;
    this.menuButton.setAttribute("aria-expanded", shown);
    if (!shown) return;
    this.kept.replaceChildren(); // a click on the old list would be lost when the new one arrives
    this.request("conversations", "the list", {}, (entries) => this.drawMenu(entries));
  }

  openKept(name) {
    this.stick = true;
    const done = () => (this.toggleMenu(false), this.input.focus());
    this.request("open", "the conversation", { name }, done);
  }

  // The kept conversations.  Their names are data, so they are set as text.
  drawMenu(entries) {
    const rows = entries.map(({ name, modified, damaged, current }) => {
      const open = makeButton(name, () => this.openKept(name), { className: "name" });
      if (current) open.setAttribute("aria-current", "true");
      open.disabled = damaged;
      const redraw = (left) => this.drawMenu(left);
      const change = (type, fields) => this.request(type, "the list", { name, ...fields }, redraw);
      const rename = makeButton("Rename", () => {
        const area = make("textarea", { value: name, rows: 1, "aria-label": `New name of ${name}` });
        onKeys(area, () => change("rename", { new: area.value }), () => (area.replaceWith(open), rename.focus()));
        open.replaceWith(area);
        area.focus();
      }, { "aria-label": `Rename ${name}` });
      const remove = makeButton("Delete", () => {
        if (remove.textContent !== "Delete") return change("delete");
        remove.textContent = "Delete for good";
        remove.setAttribute("aria-label", `Delete for good: ${name}`);
      }, { "aria-label": `Delete ${name}` });
      return make("li", {}, open, make("span", {}, damaged ? `${modified}, damaged` : modified), rename, remove);
    });
    this.kept.replaceChildren(...(rows.length ? rows : [make("li", {}, "No conversation is kept yet.")]));
    if (!this.menu.contains(document.activeElement)) this.menuButton.focus();
  }

  card(number, role) {
    const old = this.cards[number];
    if (old?.role === role) return old;
    const card = (this.cards[number] = new Card(this, number, role));
    if (old) old.node.replaceWith(card.node);
    else this.log.append(card.node);
    return card;
  }

  showDraft({ number, html, thought }) {
    if (number !== this.model.get("messages").length) return; // this answer is already complete
    this.card(number, "assistant").showDraft(html, thought);
    this.follow();
  }

  draw() {
    const [messages, busy] = [this.model.get("messages"), this.model.get("busy")];
    messages.forEach((message, number) => this.card(number, message.role).show(message));
    const hasDraft = (busy || this.gone) && this.cards[messages.length]?.node.classList.contains("draft");
    this.cards.splice(messages.length + (hasDraft ? 1 : 0)).forEach((card) => card.node.remove());
    const firstInPrompt = this.cards[this.model.get("truncated_messages")];
    if (this.model.get("truncated_messages") && firstInPrompt) this.log.insertBefore(this.divider, firstInPrompt.node);
    else this.divider.remove();
    const cut = messages.at(-1)?.cut && !busy && !this.gone;
    this.cards.forEach((card, n) => (card.resume.hidden = !cut || n < messages.length - 1));
    this.drawEmpty(messages.length || busy || hasDraft ? [] : this.model.get("starters"));
    this.drawControls(messages, busy);
    this.drawStatus();
    if (this.wasBusy && !busy && !this.wasLoading && messages.at(-1)?.role === "assistant") {
      this.spoken.textContent = this.cards.at(-1).body.textContent;
      setTimeout(() => (this.spoken.textContent = ""), 2000); // otherwise a screen reader would find it twice
    }
    [this.wasBusy, this.wasLoading] = [busy, this.model.get("loading")];
    this.openedBusy &&= busy;
    this.follow();
  }

  // What the log shows before the first message.
  drawEmpty(starters) {
    if (!starters.length) return this.empty.remove();
    if (this.empty.isConnected) return;
    const buttons = starters.map((text) => makeButton(text, () => this.submit(text)));
    this.empty.replaceChildren(make("p", {}, "Send a message to start, or choose one:"), ...buttons);
    this.log.append(this.empty);
  }

  drawControls(messages, busy) {
    this.about.textContent = this.model.get("about");
    const loading = this.model.get("loading");
    this.input.placeholder = loading ? LOADING_HINT : busy ? BUSY_HINT : HINT;
    const [undo, ...others] = this.buttons;
    const focused = document.activeElement === (busy ? this.sendButton : this.stopButton); // about to be hidden
    this.el.classList.toggle("busy", busy);
    this.log.setAttribute("aria-busy", busy);
    this.sendButton.hidden = busy;
    this.stopButton.hidden = !busy;
    this.stopButton.disabled = loading;
    undo.hidden = !this.model.get("can_undo");
    this.continue.hidden = busy || !!this.gone || messages.length > 0 || !this.model.get("last");
    this.continue.textContent = `Continue: ${this.model.get("last")}`;
    this.menuButton.disabled = busy || this.gone;
    others.forEach((one) => (one.disabled = busy || this.gone || !messages.length));
    if (focused) this.input.focus();
    const [used, all] = this.model.get("context");
    Object.assign(this.meter, { max: all, value: used });
    this.meter.parentElement.hidden = !all;  // a server may not report it
    this.used.textContent = `${used.toLocaleString("en")} of ${all.toLocaleString("en")} tokens`;
  }

  drawStatus() {
    const text = this.note || this.gone || this.model.get("status");
    const works = this.model.get("busy") && !this.note && !this.gone;
    const said = works ? "Working…" : text;
    this.progress.textContent = works ? text : "";
    this.status.classList.toggle("spoken", works);
    if (this.status.textContent !== said) {
      this.status.textContent = said;
      this.toggleDetails(false);
    }
    const open = this.statusLine.classList.contains("open");
    this.details.hidden = works || !(open || this.status.scrollWidth > this.status.clientWidth);
  }

  // The status takes one line, so that nothing below it moves; Details opens the full text above that line.
  toggleDetails(open = !this.statusLine.classList.contains("open")) {
    this.statusLine.classList.toggle("open", open);
    this.details.setAttribute("aria-expanded", open);
  }

  logSize() {
    return `${this.log.clientWidth} ${this.log.clientHeight}`;
  }

  follow() {
    this.size = this.logSize();
    if (this.stick) this.log.scrollTop = this.log.scrollHeight;
    this.latest.hidden = this.stick || this.log.scrollHeight <= this.log.clientHeight;
  }
}

export default {
  // Runs before any view draws.  An update contains the messages from the first changed one on; those before it stay.
  initialize({ model }) {
    let known = model.get("messages");
    model.on("change", () => { // in "change:messages", set() would keep "change" from the views
      const got = model.get("messages");
      if (Array.isArray(got)) return (known = got);
      if (known.length < got.from) model.send({ type: "all" }); // an update was lost
      model.set("messages", (known = [...known.slice(0, got.from), ...got.cards]));
    });
  },
  render({ model, el }) {
    const view = new View(model, el);
    return () => view.close();
  },
};
