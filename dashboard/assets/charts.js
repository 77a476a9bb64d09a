// Draws <figure class="chart" data-chart data-spec data-data> with Vega-Lite and keeps it up to date. Needs the globals `vega` (with expressionInterpreter) and `vegaLite`,
// which the page loads with `defer` before this module. The table beside each chart has the same rows and does not come from here.
//
// Without `new Function`: expressions are parsed to trees ({ast: true}) and interpreted. Without requests: the loader refuses every address, so a specification can
// neither fetch nor send anything, and links and images in it come to nothing.

const { vega, vegaLite } = globalThis;
const html = (name, className, text) => {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};

// ---- Colours and type, from the page's CSS variables ----

// On the page's background, or on the one that a specification brings along.
function theme(background) {
  const probe = document.body.appendChild(html("span", "sr"));
  // light-dark() is resolved where a property is used, not where a variable is read.
  const resolve = (value) => { probe.style.color = value; return getComputedStyle(probe).color; };
  if (background) {
    const [red, green, blue, alpha = 1] = resolve(background).match(/[\d.]+/g).map(Number);
    if (alpha > 0.5) probe.style.colorScheme = 0.3 * red + 0.59 * green + 0.11 * blue < 128 ? "dark" : "light";
  }
  const color = (name) => resolve(`var(--${name})`);
  const [text, muted, line, strong, accent, surface] = ["text", "text-2", "line", "control", "c1", "surface"].map(color);
  const category = Array.from({ length: 12 }, (_, index) => color(`c${index + 1}`));
  const soft = color("accent-soft");
  const { fontFamily: font } = getComputedStyle(document.body);
  probe.remove();
  const label = { labelColor: muted, titleColor: text, labelFont: font, titleFont: font, labelFontSize: 12, titleFontSize: 12, titleFontWeight: 500 };
  // Colours and type alone: the marks of a specification that was pasted have the shapes that its author saw.
  return {
    background: "transparent",
    font,
    padding: 2,
    tooltipFormat: { numberFormat: "," },
    view: { stroke: null },
    axis: { ...label, labelPadding: 6, titlePadding: 10, labelLimit: 200, gridColor: line, domainColor: strong, tickColor: strong, tickSize: 4 },
    axisBand: { domain: false, ticks: false, grid: false },
    axisQuantitative: { domain: false, ticks: false, labelSeparation: 8 },
    axisXQuantitative: { tickCount: { expr: "max(2, ceil(width / 100))" } },
    legend: { ...label, labelLimit: 220, symbolStrokeWidth: 2, gradientStrokeColor: line },
    header: { ...label, labelFontWeight: 500 },
    title: { color: text, subtitleColor: muted, font, subtitleFont: font, fontSize: 14, fontWeight: 600, anchor: "start", offset: 12 },
    mark: { color: accent, tooltip: { content: "encoding" } },
    arc: { stroke: surface },
    rule: { color: strong },
    text: { color: text, font, fontSize: 12 },
    boxplot: { median: { color: surface } },
    range: { category, ramp: [soft, accent], ordinal: [soft, accent], heatmap: [soft, accent], diverging: [category[2], soft, accent] },
  };
}

// ---- The tooltip: one for the page, filled with text only ----

const tip = html("div", "tip");
tip.hidden = true;
tip.setAttribute("aria-hidden", "true"); // the marks have labels of their own

const plain = (value) => (value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value));

function fill(value) {
  tip.replaceChildren();
  if (typeof value !== "object") return tip.append(plain(value));
  const list = html("dl");
  for (const [key, item] of Object.entries(value)) list.append(html("dt", "", key), html("dd", "", plain(item)));
  tip.append(list);
}

function showTip(value, x, y) {
  if (value === null || value === undefined || value === "") return hideTip();
  if (!tip.isConnected) document.body.append(tip);
  fill(value);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = x + 14 + width > innerWidth - 8 ? x - 14 - width : x + 14;
  const top = y + 16 + height > innerHeight - 8 ? y - 10 - height : y + 16;
  tip.style.transform = `translate(${Math.max(8, left)}px, ${Math.max(8, top)}px)`;
}

function hideTip() {
  tip.hidden = true;
}

addEventListener("scroll", hideTip, { passive: true, capture: true });
addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });

// ---- Fetching ----

class Refused extends Error {
  // lasting: new rows do not mend it.
  constructor(text, lasting = false) {
    super(text);
    this.lasting = lasting;
  }
}

async function get(url, etag) {
  let answer;
  try {
    answer = await fetch(url, { headers: { accept: "application/json", ...(etag && { "if-none-match": etag }) }, cache: "no-store" });
  } catch {
    throw new Refused("the dashboard does not answer");
  }
  if (answer.status === 304) return { same: true };
  const body = await answer.json().catch(() => null);
  if (!answer.ok || body?.error) throw new Refused(body?.error?.message ?? `the dashboard answers ${answer.status}`, answer.status === 404);
  if (body === null) throw new Refused("the dashboard's answer is not JSON");
  return { body, etag: answer.headers.get("etag"), version: answer.headers.get("x-data-version") };
}

// ---- A chart ----

const refusing = (refused) => {
  const loader = vega.loader();
  loader.load = loader.sanitize = loader.http = loader.file = (address) => {
    refused.add(String(address));
    return Promise.reject(new Error(`refused: ${address}`));
  };
  return loader;
};

// Vega's own logger writes to the console; what a specification's author must know stands in the figure, and warnings are theirs to look for.
const logger = { level() { return this; }, error(...parts) { console.warn(...parts); return this; }, warn(...parts) { console.debug(...parts); return this; }, info() { return this; }, debug() { return this; } };

const NARROW = 480; // pixels
const WAITS = [2, 5, 15, 30, 60]; // seconds until rows that could not be had are asked for again

class Chart {
  constructor(figure) {
    this.figure = figure;
    this.name = figure.dataset.chart;
    this.plot = figure.querySelector(".plot") ?? figure.appendChild(html("div", "plot"));
    this.plot.tabIndex = 0;
    this.said = figure.appendChild(html("p", "sr"));
    this.said.setAttribute("role", "status");
    this.rows = null;
    this.failures = 0;
    this.due = 0; // when something that lasts is asked for again, whatever comes before
    this.plot.addEventListener("keydown", (event) => this.walk(event));
    this.plot.addEventListener("blur", () => this.leave());
    this.plot.addEventListener("pointerleave", hideTip);
    this.observer = new ResizeObserver(() => this.resize());
  }

  // The specification and the rows, at the same time; then the first drawing.
  async start() {
    try {
      const [spec] = await Promise.all([get(this.figure.dataset.spec), this.load()]);
      this.spec = spec.body;
    } catch (error) {
      return this.fail(error);
    }
    await this.draw();
    this.observer.observe(this.plot);
  }

  // True when there are new rows.
  async load() {
    const { same, body, etag, version } = await get(this.figure.dataset.data, this.etag);
    if (same) return false;
    this.rows = Array.isArray(body) ? body : body.rows;
    this.etag = etag;
    this.version = version;
    return true;
  }

  // Rows may come faster than they are drawn: then the newest are next.
  async refresh({ at, version } = {}) {
    if (at) this.at = at;
    if (version !== undefined && String(version) === this.version && !this.figure.classList.contains("failed")) return this.aged(); // it is here already
    if (version !== undefined && Date.now() < this.due) return;
    if (this.busy) { this.again = true; return; }
    this.busy = true;
    do {
      this.again = false;
      clearTimeout(this.timer);
      try {
        if (!this.spec) await this.start();
        else if (await this.load()) this.view ? await this.put() : await this.draw();
        if (this.rows && this.spec && this.view) this.heal();
        this.aged();
      } catch (error) {
        this.fail(error);
      }
    } while (this.again);
    this.busy = false;
  }

  // What Vega-Lite would have parsed on loading: values that come later are put in as they are.
  parsed() {
    const parse = this.compiled.data?.find(({ name }) => name === "rows")?.format?.parse;
    return vega.read(structuredClone(this.rows), { type: "json", ...(parse && { parse }) });
  }

  async put() {
    await this.view.data("rows", this.parsed()).runAsync();
    this.label();
  }

  async draw() {
    if (!vega?.expressionInterpreter || !vegaLite) return this.fail(new Refused("the scripts that draw it could not be loaded"));
    try {
      const spec = structuredClone(this.spec);
      const hints = spec.usermeta?.tapeline?.parse;
      spec.data = { ...spec.data, name: "rows", ...(hints && { format: { type: "json", ...spec.data?.format, parse: { ...hints, ...spec.data?.format?.parse } } }) };
      // Single views take the width that there is; what is composed of several has the sizes that it names.
      const composed = ["hconcat", "vconcat", "concat", "facet", "repeat"].some((key) => key in spec) || ["row", "column", "facet"].some((channel) => spec.encoding?.[channel]);
      if (!composed && (spec.width ?? "container") === "container") {
        spec.width = "container";
        spec.autosize ??= { type: "fit-x", contains: "padding" };
      }
      this.plot.classList.toggle("high", spec.height === "container");
      this.title = this.heading();
      if ((spec.title?.text ?? spec.title) === this.title) delete spec.title; // it stands above already
      const own = spec.config ?? {};
      const config = theme(spec.background ?? own.background);
      // The width that there is, is for axes and marks: labels beside the longest bar need room of their own.
      if (/"(mark|type)":"text"/.test(JSON.stringify(spec))) config.padding = { left: 2, top: 2, right: 40, bottom: 2 };
      // What the chart says of all axes or marks wins also over what is said here of some.
      const drop = (names, keys) => { for (const name of names) for (const key in keys) delete config[name][key]; };
      drop(["axisBand", "axisQuantitative", "axisXQuantitative"], { ...own.axis, ...own.axisX, ...own.axisY });
      drop(["arc", "rule", "text"], own.mark);
      this.narrow = this.plot.clientWidth < NARROW;
      if (this.narrow) config.axis.labelLimit = 110;
      const { spec: compiled } = vegaLite.compile(spec, { config, logger });
      this.compiled = compiled;
      const refused = new Set();
      const view = new vega.View(vega.parse(compiled, {}, { ast: true }), {
        expr: vega.expressionInterpreter, loader: refusing(refused), logger, renderer: "svg", hover: true, container: this.plot,
        tooltip: (_, event, __, value) => {
          if (!event) return hideTip();
          const { clientX, clientY } = event.changedTouches?.[0] ?? event;
          showTip(value, clientX, clientY);
        },
      });
      if (!spec.description) view.description(this.title);
      view.data("rows", this.parsed());
      this.view?.finalize();
      this.view = view;
      await view.runAsync();
      this.plot.classList.add("drawn");
      this.label();
      this.heal();
      if (refused.size) this.say("warn", `Parts are missing: a chart here loads nothing from elsewhere, and this one asks for ${[...refused].slice(0, 3).join(", ")}.`);
    } catch (error) {
      this.fail(error);
    }
  }

  heading() {
    const id = this.figure.getAttribute("aria-labelledby");
    return (id && document.getElementById(id)?.textContent.trim()) || this.figure.getAttribute("aria-label") || this.name;
  }

  label() {
    this.figure.classList.toggle("no-rows", !this.rows.length);
    this.plot.setAttribute("aria-label", `${this.title}: chart. Arrow keys go through its marks.`);
  }

  // Vega follows the width of its container. Only the room for labels is decided once, for narrow or for wide.
  resize() {
    const width = this.plot.clientWidth;
    if (this.view && width && (width < NARROW) !== this.narrow) this.draw();
  }

  // ---- What is wrong, in words ----

  fail(error) {
    const text = error instanceof Refused ? error.message : `its specification cannot be drawn: ${error?.message ?? error}`;
    this.figure.classList.add("failed");
    this.say("bad", this.view ? `These are not the newest numbers: ${text}.` : `This chart cannot be shown: ${text}.`);
    if (!(error instanceof Refused)) return;
    clearTimeout(this.timer);
    const wait = 1000 * WAITS[Math.min(this.failures++, WAITS.length - 1)];
    this.due = error.lasting ? Date.now() + wait : 0;
    this.timer = setTimeout(() => this.refresh(), wait);
  }

  say(tone, text) {
    if (this.note?.textContent === text) return;
    this.note?.remove();
    this.note = html("p", `note ${tone}`, text);
    if (tone === "bad") this.note.setAttribute("role", "alert");
    this.figure.prepend(this.note);
  }

  heal() {
    [this.failures, this.due] = [0, 0];
    if (!this.figure.classList.contains("failed")) return;
    this.figure.classList.remove("failed");
    this.note?.remove();
    this.note = null;
  }

  // The age on the card is that of what is drawn.
  aged() {
    const time = this.figure.closest(".chart-card")?.querySelector(".card-head time[data-age]");
    if (!time || !this.at) return;
    time.dateTime = new Date(this.at).toISOString();
    document.dispatchEvent(new CustomEvent("tapeline:ages"));
  }

  // ---- By keyboard: from mark to mark ----

  walk(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") return this.leave();
    if ((!step && event.key !== "Home" && event.key !== "End") || event.altKey || event.ctrlKey || event.metaKey) return;
    const marks = [...this.plot.querySelectorAll('[role="graphics-symbol"][aria-roledescription]:not([aria-roledescription="axis"], [aria-roledescription="legend"], [aria-roledescription="title"])')];
    if (!marks.length) return;
    event.preventDefault();
    const was = marks.indexOf(this.mark);
    const index = event.key === "Home" ? 0 : event.key === "End" ? marks.length - 1 : was < 0 ? (step > 0 ? 0 : marks.length - 1) : (was + step + marks.length) % marks.length;
    this.mark?.classList.remove("at");
    this.mark = marks[index];
    this.mark.classList.add("at");
    this.mark.scrollIntoView({ block: "nearest", inline: "nearest" });
    const box = this.mark.getBoundingClientRect();
    const item = this.mark.__data__;
    const value = (Array.isArray(item) ? item[0] : item)?.tooltip;
    showTip(value ?? this.mark.getAttribute("aria-label"), box.right, box.top + box.height / 2);
    this.said.textContent = `${this.mark.getAttribute("aria-label") ?? plain(value)} (${index + 1} of ${marks.length})`;
  }

  leave() {
    this.mark?.classList.remove("at");
    this.mark = null;
    this.said.textContent = "";
    hideTip();
  }
}

// ---- The page's charts ----

const charts = [...document.querySelectorAll("figure.chart[data-chart]")].map((figure) => new Chart(figure));

// One source may feed several charts; without data-source it is the chart's name.
document.addEventListener("tapeline:data", ({ detail }) => {
  for (const chart of charts) if ((chart.figure.dataset.source ?? chart.name) === detail.source) chart.refresh(detail);
});
document.addEventListener("tapeline:resync", () => charts.forEach((chart) => chart.refresh()));
document.addEventListener("tapeline:theme", () => charts.forEach((chart) => chart.spec && chart.rows && chart.draw()));

charts.forEach((chart) => chart.refresh());
