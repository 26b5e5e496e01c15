// The chat box in the browser: draws what helpers/transcript.py sends, and sends back what a person does.
// No library, no network.  Python has made the HTML of answers safe; all other text is set as text.

const PATIENCE = 400; // milliseconds until an unanswered request means that the kernel is busy with another cell
const NEAR = 24; // pixels from the log's end within which it follows what is written
const WARMER =
  "The warmer the colour, the less likely the token was; dotted below 50 %. Choose one to see what else was likely.";
const READ = 4000; // milliseconds that a short sentence stays
const HINT = "Enter sends, Shift+Enter breaks the line";

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const button = (name, onclick, properties = {}) =>
  make("button", { type: "button", textContent: name, onclick, ...properties });

// Make the children of `old` those of `fresh`, touching only what differs: no flicker, and a selection survives.
function patch(old, fresh) {
  const [was, now] = [[...old.childNodes], [...fresh.childNodes]];
  now.forEach((node, i) => {
    if (!was[i]) old.append(node);
    else if (was[i].isEqualNode(node)) return;
    else if (node.nodeType === Node.TEXT_NODE && was[i].nodeType === Node.TEXT_NODE) grow(was[i], node.data);
    else if (was[i].cloneNode(false).isEqualNode(node.cloneNode(false))) patch(was[i], node);
    else was[i].replaceWith(node);
  });
  was.slice(now.length).forEach((node) => node.remove());
}

function grow(text, data) {
  if (data.startsWith(text.data)) text.appendData(data.slice(text.length));
  else text.data = data;
}

function patchHTML(node, html) {
  const template = document.createElement("template"); // its content is inert: nothing loads or runs
  template.innerHTML = html;
  patch(node, template.content);
}

// What a text area does with Enter and Escape.  Enter that ends a composed character (Chinese, Japanese) is not ours.
function onKeys(area, enter, escape) {
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      enter();
    } else if (event.key === "Escape" && escape) {
      event.preventDefault();
      escape();
    }
  });
}

// Arrow keys go from button to button in a group, of which Tab sees only one.
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
    // Without https, and from another computer, a browser has only the old way.
    const area = make("textarea", { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

function download(name, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "text/markdown" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const percent = (p) => (p < 0.001 ? "below 0.1 %" : `${(100 * p).toFixed(p < 0.1 ? 1 : 0)} %`);
const counted = (n) => n.toLocaleString("en");

// One message in the log.
class Card {
  constructor(view, number, role) {
    Object.assign(this, { view, number, role, drawn: "" });
    const mine = role === "user";
    const label = `${mine ? "Your message" : "Answer"}, number ${number + 1}`; // tells its buttons from the others
    const copying = button("Copy", () => this.copy());
    this.own = mine ? button("Edit", () => this.edit()) : button("X-ray", () => this.toggleXray());
    this.figures = make("div", { className: "figures" });
    this.body = make("div", { className: "body" });
    const tools = mine ? [this.own, copying] : [copying, this.own, this.figures];
    this.tools = make("div", { className: "tools" }, ...tools);
    this.node = make("article", { className: `message ${role}`, "aria-label": label }, this.body, this.tools);
    this.close();
  }

  show(message) {
    const drawn = JSON.stringify(message);
    if (drawn === this.drawn) return;
    Object.assign(this, { drawn, message });
    this.close();
    if (this.role === "user") this.body.textContent = message.text;
    else patchHTML(this.body, message.html);
    this.figures.textContent = message.figures ?? "";
    this.own.hidden = message.xray === false;
    this.node.classList.remove("writing");
  }

  write(html) {
    this.drawn = "";
    this.close();
    this.node.classList.add("writing");
    this.figures.textContent = "";
    patchHTML(this.body, html);
  }

  // Back to the message itself, from editing or X-ray.
  close() {
    this.extra?.remove();
    this.extra = this.options = null;
    this.body.hidden = this.tools.hidden = false;
    if (this.role === "assistant") this.own.setAttribute("aria-pressed", "false");
  }

  open(extra) {
    this.extra = extra;
    this.body.hidden = true;
    this.body.after(extra);
  }

  async copy() {
    await copyText(this.message.text);
    this.view.tell("Copied.");
  }

  edit() {
    const area = make("textarea", { value: this.message.text, "aria-label": "Edit message", rows: 3 });
    const cancel = () => (this.close(), this.own.focus());
    const done = () => (this.close(), this.view.composer.focus());
    const save = () => this.view.ask("edit", "your message", { number: this.number, text: area.value }, done);
    onKeys(area, save, cancel);
    this.open(make("div", { className: "editing" }, area, button("Save", save), button("Cancel", cancel)));
    this.tools.hidden = true;
    area.focus();
  }

  toggleXray() {
    if (this.extra) return this.close();
    this.view.ask("xray", "X-ray", { number: this.number }, (tokens) => {
      this.close(); // a second request may have been faster
      this.open(this.xray(tokens));
      this.own.setAttribute("aria-pressed", "true");
      this.view.follow();
    });
  }

  xray(tokens) {
    const chips = tokens.map((token, position) => chip(token, () => this.choose(chips[position], token, position)));
    const group = make("div", { className: "tokens", role: "group", "aria-label": "Tokens" });
    chips.forEach((one) => group.append(one, ...(one.textContent.endsWith("⏎") ? [make("br")] : [])));
    rove(group);
    const hint = make("p", { className: "hint", textContent: WARMER });
    const onkeydown = (event) => {
      if (event.key !== "Escape" || !this.options) return;
      event.preventDefault();
      this.dismiss().focus();
    };
    return make("div", { className: "xray", onkeydown }, hint, group);
  }

  // The alternatives of a token, in a small panel below it; choosing it again closes that.
  choose(at, token, position) {
    const already = at.getAttribute("aria-expanded") === "true";
    this.dismiss();
    if (already) return;
    at.setAttribute("aria-expanded", "true");
    const options = token.options.map((option) =>
      alternative(option, option.id === token.id, () => this.branch(position, option.id)),
    );
    const name = `Instead of ${token.text}`;
    this.options = make("div", { className: "options", role: "group", "aria-label": name }, ...options);
    rove(this.options);
    this.place(at);
    options[0]?.focus({ preventScroll: true });
  }

  place(at) {
    this.extra.append(this.options);
    const room = this.extra.clientWidth - this.options.offsetWidth;
    this.options.style.left = `${Math.max(0, Math.min(at.offsetLeft, room))}px`;
    this.options.style.top = `${at.offsetTop + at.offsetHeight + 4}px`;
    this.options.scrollIntoView({ block: "nearest" });
  }

  branch(position, token) {
    const done = () => this.view.composer.focus();
    this.view.ask("branch", "your choice", { number: this.number, position, token }, done);
  }

  // Close that panel; returns the token that it belonged to, if it was open.
  dismiss() {
    const at = this.extra.querySelector("[aria-expanded=true]");
    at?.setAttribute("aria-expanded", "false");
    this.options?.remove();
    this.options = null;
    return at;
  }
}

function chip({ text, kind, probability }, onclick) {
  const share = percent(probability);
  const node = button(text, onclick, { title: share, "aria-label": `${text}, ${share}`, "aria-expanded": "false" });
  node.className = `token ${kind} ${probability < 0.5 ? "unlikely" : ""}`;
  node.style.setProperty("--doubt", `${Math.round(100 * (1 - probability))}%`);
  return node;
}

function alternative({ text, kind, probability }, taken, onclick) {
  const token = make("span", { className: `token ${kind}`, textContent: text });
  const share = make("span", { className: "share", textContent: percent(probability) });
  return make("button", { type: "button", onclick, ...(taken ? { "aria-current": "true" } : {}) }, token, " ", share);
}

class View {
  constructor(model, el) {
    Object.assign(this, { model, el, cards: [], waiting: new Map(), note: "", stick: true });
    this.wasBusy = model.get("busy");
    this.build();
    this.listen();
    this.draw();
    if (model.get("busy")) this.ask("draft", "the answer", {}, (draft) => draft && this.write(draft));
  }

  build() {
    // The log itself is silent: a screen reader would say each piece of an answer.  `spoken` gets it once, complete.
    const names = { role: "log", "aria-label": "Conversation", "aria-live": "off" };
    this.log = make("div", { className: "log", tabIndex: 0, ...names });
    this.spoken = make("div", { className: "spoken", "aria-live": "polite" });
    this.memory = make("p", { className: "memory", textContent: "The model no longer sees the messages above." });
    this.composer = make("textarea", { rows: 2, "aria-label": "Message", placeholder: HINT });
    this.send = button("Send", () => this.say(), { className: "go" });
    this.stop = button("Stop", () => this.halt(), { className: "halt" });
    this.status = make("div", { className: "status", role: "status" });
    this.meter = make("meter", { min: 0, "aria-label": "Context" });
    this.used = make("span", { className: "used" });
    this.quiet = ["Undo", "Regenerate", "Export", "Clear"].map((name) => button(name, () => this.act(name)));
    const line = make("div", { className: "line" }, this.composer, this.send, this.stop);
    const context = make("span", { className: "context" }, "Context ", this.meter, " ", this.used);
    const foot = make("div", { className: "foot" }, context, ...this.quiet);
    this.el.classList.add("ovchat");
    this.el.append(this.log, line, this.status, foot, this.spoken);
  }

  listen() {
    this.log.addEventListener("scroll", () => (this.stick = this.fromEnd() < NEAR));
    onKeys(this.composer, () => this.say());
    this.el.addEventListener("keydown", (event) => {
      // JupyterLab must not see the keys: Shift+Enter would run the cell again.  Only saving is its business.
      const saving = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "s";
      if (!saving) event.stopPropagation();
      if (event.key === "Escape" && !event.defaultPrevented && this.model.get("busy")) this.halt();
    });
    this.changed = () => this.draw();
    this.received = (message) => (message.type === "draft" ? this.write(message.draft) : this.replied(message));
    this.model.on("change", this.changed);
    this.model.on("msg:custom", this.received);
  }

  close() {
    this.model.off("change", this.changed);
    this.model.off("msg:custom", this.received);
    [this.fading, ...[...this.waiting.values()].map(({ timer }) => timer)].forEach(clearTimeout);
  }

  // Ask the kernel for something; `done` gets its answer.  `what` waits if the kernel has no time.
  ask(type, what, more = {}, done = () => {}) {
    const id = Math.random().toString(36).slice(2);
    const busy = `The notebook is running another cell; ${what} waits for it.`;
    const timer = setTimeout(() => this.tell(busy, true), PATIENCE);
    this.waiting.set(id, { type, timer, done });
    this.model.send({ type, id, ...more });
  }

  replied({ id, ok, data }) {
    const asked = this.waiting.get(id);
    if (!asked) return; // another view of this box has asked
    clearTimeout(asked.timer);
    this.waiting.delete(id);
    this.tell("");
    if (ok) asked.done(data);
  }

  // A sentence of this view's own, which hides the kernel's status for a while, or until it is told otherwise.
  tell(note, lasting = false) {
    this.note = note;
    this.drawStatus();
    clearTimeout(this.fading);
    if (note && !lasting) this.fading = setTimeout(() => this.tell(""), READ);
  }

  say() {
    const text = this.composer.value;
    const sending = [...this.waiting.values()].some(({ type }) => type === "say");
    if (sending) return;
    if (this.model.get("busy")) return this.tell("Wait for the end of the answer, or stop it. Your text stays here.");
    this.stick = true;
    // The text stays in the box until the kernel has it, so that nothing is lost.
    this.ask("say", "your message", { text }, () => {
      const now = this.composer.value;
      this.composer.value = now.startsWith(text) ? now.slice(text.length) : now;
    });
    this.composer.focus();
  }

  halt() {
    this.ask("stop", "Stop");
    this.composer.focus();
  }

  act(name) {
    const done = name === "Export" ? (text) => download("conversation.md", text) : undefined;
    this.stick = this.stick || name === "Regenerate";
    this.ask(name.toLowerCase(), name, {}, done);
    if (name !== "Export") this.composer.focus();
  }

  card(number, role) {
    const there = this.cards[number];
    if (there?.role === role) return there;
    const card = (this.cards[number] = new Card(this, number, role));
    if (there) there.node.replaceWith(card.node);
    else this.log.append(card.node);
    return card;
  }

  write({ number, html }) {
    if (number !== this.model.get("messages").length) return; // of an answer that is settled by now
    this.card(number, "assistant").write(html);
    this.follow();
  }

  draw() {
    const [messages, busy] = [this.model.get("messages"), this.model.get("busy")];
    messages.forEach((message, number) => this.card(number, message.role).show(message));
    const shown = messages.length + (busy && this.cards[messages.length]?.node.classList.contains("writing") ? 1 : 0);
    this.cards.splice(shown).forEach((card) => card.node.remove());
    this.drawMemory();
    this.drawControls(busy);
    this.drawStatus();
    if (this.wasBusy && !busy) this.settled(messages.at(-1));
    this.wasBusy = busy;
    this.follow();
  }

  drawMemory() {
    const first = this.cards[this.model.get("truncated_messages")];
    if (this.model.get("truncated_messages") && first) this.log.insertBefore(this.memory, first.node);
    else this.memory.remove();
  }

  drawControls(busy) {
    const any = this.model.get("messages").length > 0;
    const [undo, ...others] = this.quiet;
    const lost = busy ? this.send : this.stop;
    const focused = document.activeElement === lost;
    this.el.classList.toggle("busy", busy);
    this.log.setAttribute("aria-busy", busy);
    this.send.hidden = busy;
    this.stop.hidden = !busy;
    undo.hidden = !this.model.get("can_undo");
    others.forEach((one) => (one.disabled = busy || !any));
    if (focused) this.composer.focus();
    const [used, all] = this.model.get("context");
    Object.assign(this.meter, { max: all, value: used });
    this.used.textContent = `${counted(used)} of ${counted(all)} tokens`;
  }

  drawStatus() {
    const words = this.note || this.model.get("status");
    if (this.status.textContent !== words) this.status.textContent = words;
  }

  settled(message) {
    if (message?.role !== "assistant") return;
    this.spoken.textContent = this.cards.at(-1).body.textContent;
    setTimeout(() => (this.spoken.textContent = ""), 2000); // or it would be found twice when the page is read
  }

  fromEnd() {
    return this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight;
  }

  follow() {
    if (this.stick) this.log.scrollTop = this.log.scrollHeight;
  }
}

export default {
  render({ model, el }) {
    const view = new View(model, el);
    return () => view.close();
  },
};
