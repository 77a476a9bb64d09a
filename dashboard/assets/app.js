// What every page does once scripts run: one EventSource whose events bring new HTML and numbers, its state in #connection, a pause, ages that tick, the theme, and
// filters that apply at once. Pages are complete without it. Other scripts hear of it by events on `document`:
//
//   tapeline:data    {source, version, at}            rows of a source are new
//   tapeline:points  {query, series, at, values}      one more point of a time series
//   tapeline:resync  {}                               events may have been missed: fetch again what you show
//   tapeline:theme   {}                               colours are others now
//
// Needs the global Idiomorph. README.md has the events and attributes.

const root = document.documentElement;
const page = document.body.dataset;
const tell = (name, detail = {}) => document.dispatchEvent(new CustomEvent(`tapeline:${name}`, { detail }));
const remembered = {
  get(key) { try { return localStorage.getItem(`tapeline.${key}`); } catch { return null; } },
  set(key, value) { try { value === null ? localStorage.removeItem(`tapeline.${key}`) : localStorage.setItem(`tapeline.${key}`, value); } catch { /* forbidden: for this page only */ } },
};

// ---- Ages ----

// The server's clock decides: a laptop that is two minutes wrong must not turn fresh numbers red.
let clockOffset = (Number(page.now) || Date.now()) - Date.now();
const now = () => Date.now() + clockOffset;

function words(seconds) {
  const s = Math.abs(seconds);
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

function age(time) {
  const at = Date.parse(time.dateTime);
  if (Number.isNaN(at)) return;
  const seconds = (now() - at) / 1000;
  const { amber, red } = time.dataset;
  const state = !amber && !red ? "" : red && seconds >= red ? "old" : amber && seconds >= amber ? "stale" : "fresh";
  // A clock may differ by a moment; what is planned lies further ahead.
  let text = seconds < -2 ? `in ${words(seconds)}` : `${words(Math.max(0, seconds))} ago`;
  if (state === "stale" || state === "old") text += `, ${state}`;
  if (!time.title || time.titleOf !== time.dateTime) {
    time.title = new Date(at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "long" });
    time.titleOf = time.dateTime;
  }
  // The text node stays, so that a selection does.
  if (time.firstChild?.nodeType === Node.TEXT_NODE && time.childNodes.length === 1) {
    if (time.firstChild.data !== text) time.firstChild.data = text;
  } else {
    time.textContent = text;
  }
  if (state && time.dataset.state !== state) time.dataset.state = state;
}

const ages = (within = document) => within.querySelectorAll("time[data-age]").forEach(age);
document.addEventListener("tapeline:ages", () => ages()); // another script set a time

// ---- New HTML into the page ----

const morphing = {
  morphStyle: "outerHTML",
  restoreFocus: true,
  callbacks: {
    // data-keep: a script draws there.
    beforeNodeMorphed: (old, fresh) => !(old.nodeType === Node.ELEMENT_NODE && (old.hasAttribute("data-keep") || old.isEqualNode(fresh))),
    // What people opened stays open.
    beforeAttributeUpdated: (name, node) => !(name === "open" && node.localName === "details"),
  },
};

function morph(id, html) {
  const element = document.getElementById(id);
  if (!element) return;
  // What somebody types stays. (For a focused link this option would keep its text from being renewed.)
  const ignoreActiveValue = document.activeElement?.matches("input, select, textarea") ?? false;
  globalThis.Idiomorph.morph(element, html.trim(), { ...morphing, ignoreActiveValue });
  const fresh = document.getElementById(id);
  if (fresh) ages(fresh);
}

const TAIL = 200;

// Whether a message comes before another in a list that has the newest first. Within a partition the offset says it; clocks of producers go as they like.
function isNewer(one, other) {
  const [[, partition, offset], [, otherPartition, otherOffset]] = [one, other].map(({ id }) => id.split("-").map(Number));
  if (partition === otherPartition) return offset > otherOffset;
  const [at, otherAt] = [one, other].map((item) => Date.parse(item.querySelector("time")?.dateTime));
  return !(at < otherAt);
}

// Before what it belongs. What has no id (how many messages were left out) stands above the message that came before.
function placeOf(item, list) {
  if (!item.id) return list.firstElementChild;
  let place = [...list.children].find((other) => other.id && isNewer(item, other)) ?? null;
  for (let above; (above = place ? place.previousElementSibling : list.lastElementChild) && !above.id;) place = above;
  return place;
}

// After a reconnection the newest messages come once more: each has its place by its id, and those that are here stay as they are.
function insert(html) {
  const list = document.getElementById("tail");
  if (!list) return;
  const template = document.createElement("template");
  template.innerHTML = html.trim();
  const item = template.content.firstElementChild;
  if (!item || (item.id && document.getElementById(item.id))) return;
  item.classList.add("new");
  list.insertBefore(item, placeOf(item, list));
  ages(item);
  // The oldest go, but not one that somebody reads.
  for (let old = list.lastElementChild; list.children.length > TAIL && old;) {
    const before = old.previousElementSibling;
    if (!old.querySelector("details[open]") && !old.contains(document.activeElement)) old.remove();
    old = before;
  }
  document.getElementById("tail-empty")?.setAttribute("hidden", "");
}

// ---- Pause ----

const pause = document.getElementById("pause");
const POINTS = 2000;
let paused = false;
let waiting = nothing();

function nothing() {
  return { fragments: new Map(), data: new Map(), points: [], tail: [], missed: false };
}

function apply(kind, message) {
  if (kind === "fragment") morph(message.id, message.html);
  else if (kind === "tail") insert(typeof message === "string" ? message : message.html);
  else tell(kind, message);
}

// Of what replaces something the newest waits, of what is added everything, up to a limit.
function wait(kind, message) {
  if (kind === "fragment") waiting.fragments.set(message.id, message);
  else if (kind === "data") waiting.data.set(message.source, message);
  else if (kind === "tail") waiting.tail.push(message) > TAIL && waiting.tail.shift();
  else if (waiting.points.push(message) > POINTS) waiting.missed = !!waiting.points.shift();
  const count = pause?.querySelector(".count");
  const number = waiting.fragments.size + waiting.data.size + waiting.points.length + waiting.tail.length;
  if (count) count.textContent = number > 999 ? "999+" : number;
}

function resume() {
  const { fragments, data, points, tail, missed } = waiting;
  waiting = nothing();
  for (const message of fragments.values()) apply("fragment", message);
  for (const message of tail) apply("tail", message);
  if (missed) tell("resync");
  else {
    for (const message of data.values()) apply("data", message);
    for (const message of points) apply("points", message);
  }
}

pause?.addEventListener("click", () => {
  paused = !paused;
  pause.setAttribute("aria-pressed", paused);
  const count = pause.querySelector(".count");
  if (count) count.textContent = paused ? "0" : "";
  if (!paused) resume();
  show();
});

// ---- The connection ----

const QUIET = 15_000; // no event for so long: the server beats every 5 s, so the connection is dead even if nobody closed it
const STABLE = 10_000; // a connection that lived so long makes the next wait short again
const LONGEST = 30_000;
const HIDDEN = 60_000; // a browser has six connections to a server over HTTP/1.1: a tab that nobody looks at gives its own back

const badge = document.getElementById("connection");
let source = null;
let state = "connecting"; // connecting, live, waiting (for the next try), asleep (the page is hidden), refused
let tries = 0;
let openedAt = 0;
let heardAt = 0;
let retryAt = 0;
let timer = 0;
let lost = false;
let version = page.version;
let outdated = false;

function show() {
  if (!badge) return;
  const seconds = Math.max(1, Math.ceil((retryAt - Date.now()) / 1000));
  const [tone, text, detail] = state === "live" && outdated ? ["warn", "new version", "reload the page"]
    : state === "live" && paused ? ["warn", "paused", ""]
    : state === "live" ? ["ok", "live", ""]
    : state === "connecting" && tries === 0 ? ["idle", "connecting", ""]
    : state === "connecting" ? ["warn", "reconnecting", ""]
    : state === "waiting" ? [tries > 2 ? "bad" : "warn", "reconnecting", `in ${seconds} s`]
    : state === "refused" ? ["bad", "not connected", "sign in again: reload the page"]
    : ["idle", "not connected", ""];
  const [word, more] = [badge.querySelector(".word"), badge.querySelector(".detail")];
  // Only what changes is written: it is a live region. The seconds stand outside of it, for eyes alone.
  if (word.textContent !== text) word.textContent = text;
  if (more.textContent !== detail) more.textContent = detail;
  for (const name of ["ok", "warn", "bad", "idle"]) badge.classList.toggle(name, name === tone);
}

function close() {
  clearTimeout(timer);
  source?.close();
  source = null;
}

function connect() {
  close();
  state = "connecting";
  show();
  const stream = new EventSource(page.events);
  source = stream;
  openedAt = heardAt = Date.now();
  stream.onopen = () => {
    heardAt = Date.now();
    state = "live";
    show();
    if (lost) { lost = false; paused ? (waiting.missed = true) : tell("resync"); }
  };
  // Whether EventSource would try again or gives up (it does on any answer that is not 200) is the browser's rule: ours is one for all.
  stream.onerror = () => { if (stream === source) retry(); };
  const on = (kind, handle) => stream.addEventListener(kind, (event) => {
    if (stream !== source) return;
    heardAt = Date.now();
    let message;
    try { message = JSON.parse(event.data); } catch { return; }
    handle(message);
  });
  // What is wrong is said at once, whoever has paused.
  const waits = (kind, message) => paused && !(kind === "fragment" && message.id === "notice");
  for (const kind of ["fragment", "data", "points", "tail"]) on(kind, (message) => (waits(kind, message) ? wait : apply)(kind, message));
  on("beat", (beat) => {
    if (beat?.now) clockOffset = beat.now - Date.now();
    if (beat?.version) {
      version ??= beat.version;
      if (beat.version !== version && !outdated) { outdated = true; show(); }
    }
  });
}

function retry() {
  close();
  lost = true;
  if (Date.now() - openedAt > STABLE && state === "live") tries = 0;
  tries += 1;
  // 1, 2, 4 .. 30 s, each up to half longer by chance: 200 pages do not come back in the same moment.
  const delay = Math.min(LONGEST, 1000 * 2 ** (tries - 1)) * (1 + Math.random() / 2);
  retryAt = Date.now() + delay;
  state = "waiting";
  timer = setTimeout(connect, delay);
  show();
  if (tries % 3 === 0) probe();
}

// EventSource does not say why. An expired sign-in (a refusal, or a redirect to a sign-in page elsewhere) is not mended by waiting.
async function probe() {
  try {
    const answer = await fetch(location.href, { method: "HEAD", redirect: "manual", cache: "no-store" });
    if ((answer.type === "opaqueredirect" || answer.status === 401 || answer.status === 403) && state === "waiting") {
      close();
      state = "refused";
      show();
    }
  } catch { /* not reachable: goes on trying */ }
}

function wake() {
  if (state === "live" || !page.events) return;
  tries = Math.min(tries, 1);
  connect();
}

let hiding = 0;
function visibility() {
  clearTimeout(hiding);
  if (!document.hidden) return source && Date.now() - heardAt < QUIET ? undefined : wake();
  hiding = setTimeout(() => {
    close();
    lost = true;
    state = "asleep";
    show();
  }, HIDDEN);
}

document.addEventListener("visibilitychange", visibility);
addEventListener("online", wake);
addEventListener("pagehide", close); // a page with an open stream is not kept for «back»
addEventListener("pageshow", (event) => { if (event.persisted) { lost = true; state = "asleep"; wake(); } });

setInterval(() => {
  if (!document.hidden) ages();
  if (source && Date.now() - heardAt > QUIET) retry();
  else if (state === "waiting") show();
}, 1000);

// ---- Theme ----

const THEMES = ["auto", "light", "dark"];
const theme = document.getElementById("theme");

function showTheme() {
  const chosen = root.dataset.theme ?? "auto";
  const label = `Theme: ${chosen === "auto" ? "as the system" : chosen}`;
  theme?.setAttribute("aria-label", label);
  theme?.setAttribute("title", label);
}

theme?.addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(root.dataset.theme ?? "auto") + 1) % THEMES.length];
  if (next === "auto") delete root.dataset.theme;
  else root.dataset.theme = next;
  remembered.set("theme", next === "auto" ? null : next);
  showTheme();
  tell("theme");
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => tell("theme"));
addEventListener("storage", (event) => {
  if (event.key !== "tapeline.theme") return;
  if (event.newValue) root.dataset.theme = event.newValue;
  else delete root.dataset.theme;
  showTheme();
  tell("theme");
});

// ---- Filters ----

// They apply at once. A select that is walked through by the arrow keys changes with each step, so the last step counts.
const FOCUS = "tapeline.focus";
let applying = 0;

document.addEventListener("change", (event) => {
  const form = event.target.closest?.("form.filters");
  if (!form) return;
  clearTimeout(applying);
  applying = setTimeout(() => {
    try { sessionStorage.setItem(FOCUS, JSON.stringify([location.pathname, form.id, document.activeElement?.name ?? event.target.name, Date.now()])); } catch { /* without */ }
    form.requestSubmit();
  }, event.target.localName === "select" ? 250 : 0);
});
// An address without the filters that are not set.
document.addEventListener("formdata", (event) => {
  if (!event.target.matches("form.filters")) return;
  for (const [name, value] of [...event.formData]) if (value === "") event.formData.delete(name);
});

function focusAgain() {
  try {
    const [path, id, name, at] = JSON.parse(sessionStorage.getItem(FOCUS)) ?? [];
    sessionStorage.removeItem(FOCUS);
    if (path !== location.pathname || Date.now() - at > 5000) return;
    const form = id ? document.getElementById(id) : document.querySelector("form.filters");
    form?.elements.namedItem(name)?.focus({ preventScroll: true });
  } catch { /* the page starts at its top */ }
}

// ---- Chart, table or both ----

function choose(card, shown) {
  card.dataset.show = shown;
  for (const button of card.querySelectorAll("button[data-show-as]")) button.setAttribute("aria-pressed", button.dataset.showAs === shown);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest?.("button[data-show-as]");
  const card = button?.closest("[data-show]");
  if (!card) return;
  choose(card, button.dataset.showAs);
  remembered.set(`show.${card.id}`, button.dataset.showAs);
});
for (const card of document.querySelectorAll("[data-show]")) {
  const shown = remembered.get(`show.${card.id}`);
  if (shown) choose(card, shown);
}

// Long cells are cut, and whole when somebody clicks on one (app.css).
for (const cell of document.querySelectorAll(".data.rows td.clip")) cell.tabIndex = -1;

showTheme();
focusAgain();
ages();
if (page.events) connect();
else for (const element of [badge, pause]) element?.setAttribute("hidden", "");
