// Draws <div class="series" data-series data-query data-url> as time series with uPlot and appends the points that come. Needs the global `uPlot`. The numbers under the
// cursor, or the newest, stand in a table below each plot; the plot itself is a slider along time for keyboards and screen readers.

const { uPlot } = globalThis;
const make = (name, className, text) => {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};
const svg = (name, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};

const HEIGHT = 190;
const WINDOW = 3600; // seconds that stay, unless data-window says otherwise
const DASHES = [[], [6, 4], [2, 3], [10, 3, 2, 3], [14, 4], [4, 2], [8, 3, 2, 3, 2, 3], [1, 4]];

// ---- Numbers and times ----

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const exact = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
// UTC, as all times that the server writes.
const clock = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZone: "UTC" });
const minutes = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: "UTC" });

function short(value, unit) {
  if (value === null || value === undefined) return "\u2013";
  if (unit === "ms") return Math.abs(value) >= 60_000 ? `${exact.format(value / 60_000)} min` : Math.abs(value) >= 1000 ? `${exact.format(value / 1000)} s` : `${exact.format(value)} ms`;
  return Math.abs(value) < 1000 ? exact.format(value) : compact.format(value);
}

function full(value, unit) {
  if (value === null || value === undefined) return "\u2013";
  return unit === "ms" ? short(value, unit) : `${exact.format(value)}${unit ? ` ${unit}` : ""}`;
}

// ---- Colours, from the page's CSS variables ----

let colours;

function readColours() {
  const probe = document.body.appendChild(make("span", "sr"));
  const read = (name) => { probe.style.color = `var(--${name})`; return getComputedStyle(probe).color; };
  colours = { text: read("text-2"), line: read("line"), series: [1, 2, 3, 4, 5, 6, 7, 8].map((n) => read(`c${n}`)), font: `12px ${getComputedStyle(document.body).fontFamily}` };
  probe.remove();
}

const colour = (index) => colours.series[index % colours.series.length];
const dash = (index) => DASHES[index % DASHES.length];

// Parts of a whole (the steps of a batch) are stacked: each is drawn up to its sum with those before it, the tallest first.
function stacked(columns) {
  const sums = [];
  for (const [index, values] of columns.entries()) {
    sums.push(values.map((value, at) => (value === null && index === 0 ? null : (value ?? 0) + (index ? sums[index - 1][at] ?? 0 : 0))));
  }
  return sums;
}

class Series {
  constructor(element) {
    this.element = element;
    this.kind = element.dataset.series;
    this.query = element.dataset.query;
    this.span = Number(element.dataset.window) || WINDOW;
    this.stack = this.kind === "batches";
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(element);
  }

  async load() {
    if (this.loading) { this.again = true; return; }
    this.loading = true;
    do {
      this.again = false;
      clearTimeout(this.timer);
      try {
        const answer = await fetch(this.element.dataset.url, { headers: { accept: "application/json" }, cache: "no-store" });
        const body = await answer.json().catch(() => null);
        if (!answer.ok || !body || body.error) throw new Error(body?.error?.message ?? `the dashboard answers ${answer.status}`);
        const known = this.series?.map(({ label }) => label).join();
        this.at = body.at;
        this.series = body.series;
        this.failures = 0;
        known === this.series.map(({ label }) => label).join() && this.plot ? this.put() : this.draw();
      } catch (error) {
        if (!this.plot) this.say("These numbers cannot be had.", error instanceof TypeError ? "The dashboard does not answer." : `${error.message}.`, "alert");
        this.failures = (this.failures ?? 0) + 1;
        this.timer = setTimeout(() => this.load(), Math.min(60, 2 ** this.failures) * 1000);
      }
    } while (this.again);
    this.loading = false;
  }

  add({ at, labels, values }) {
    if (!this.series) return;
    // A partition came or went, or this is the first point.
    const known = this.series.map(({ label }) => label).join();
    if (!Array.isArray(values) || values.length !== this.series.length || !this.series.length || (labels && labels.join() !== known)) return void this.load();
    if (this.at.length && at <= this.at.at(-1)) return;
    this.at.push(at);
    this.series.forEach((series, index) => series.values.push(values[index]));
    const old = this.at.findIndex((time) => time >= at - this.span);
    if (old > 0) {
      this.at.splice(0, old);
      for (const series of this.series) series.values.splice(0, old);
    }
    this.plot ? this.put() : this.draw();
  }

  say(title, text, role) {
    this.plot?.destroy();
    this.plot = null;
    const box = make("div", "empty");
    if (role) box.setAttribute("role", role);
    box.append(make("strong", "", title), make("p", "", text));
    this.element.replaceChildren(box);
  }

  data() {
    const columns = this.series.map(({ values }) => values);
    return [this.at, ...(this.stack ? stacked(columns).reverse() : columns)];
  }

  put() {
    this.plot.setData(this.data());
    this.read();
  }

  draw() {
    if (!this.at.length || !this.series.length) return this.say("Nothing yet", "Points come as the query works.");
    this.plot?.destroy();
    this.over = make("div", "series-plot");
    this.over.tabIndex = 0;
    this.over.setAttribute("role", "slider");
    this.over.setAttribute("aria-label", this.element.dataset.title ?? `${this.kind} of ${this.query} over time`);
    this.over.setAttribute("aria-orientation", "horizontal");
    this.over.addEventListener("keydown", (event) => this.step(event));
    this.over.addEventListener("blur", () => this.plot?.setCursor({ left: -10, top: -10 }));
    this.legend = this.table();
    this.element.replaceChildren(this.over, this.legend);

    const units = [...new Set(this.series.map(({ unit }) => unit ?? ""))];
    const axis = { stroke: colours.text, font: colours.font, grid: { stroke: colours.line, width: 1 }, ticks: { show: false } };
    const bars = this.stack && uPlot.paths.bars({ size: [0.7, 14, 2] });
    const lines = this.series.map(({ label, unit }, index) => ({
      label, scale: unit ?? "", stroke: colour(index), spanGaps: false,
      ...(this.stack ? { fill: colour(index), width: 0, paths: bars, points: { show: false } } : { width: 1.75, dash: dash(index), points: { size: 4, show: (u, _, from, to) => to - from < 3 } }),
    }));
    if (this.stack) lines.reverse();
    this.plot = new uPlot({
      width: this.over.clientWidth, height: HEIGHT, tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "UTC"), legend: { show: false }, padding: [10, 8, 0, 0],
      scales: {
        x: { range: (_, from, to) => { const edge = this.stack ? Math.max(2, (to - from) / 60) : 0; return to - from < 30 ? [to - 30 - edge, to + edge] : [from - edge, to + edge]; } },
        ...Object.fromEntries(units.map((unit) => [unit, { range: (_, __, max) => [0, max > 0 ? max * 1.08 : 1] }])),
      },
      axes: [
        { ...axis, space: 64, size: 30, values: (u, times) => { const fine = times.length > 1 && times[1] - times[0] < 60; return times.map((time) => (fine ? clock : minutes).format(time * 1000)); } },
        ...units.map((unit, index) => ({ ...axis, scale: unit, side: index ? 1 : 3, grid: { ...axis.grid, show: !index }, space: 36, size: (_, values) => 18 + 7 * Math.max(2, ...(values ?? []).map((value) => value.length)), values: (_, values) => values.map((value) => short(value, unit)) })),
      ],
      series: [{}, ...lines],
      cursor: { sync: { key: "tapeline" }, y: false, drag: { x: false, y: false }, points: { size: 7, show: !this.stack } },
      hooks: { setCursor: [() => this.read()] },
    }, this.data(), this.over);
    this.width = this.over.clientWidth;
    this.read();
  }

  // What the lines are, with the values under the cursor, or the newest.
  table() {
    const table = make("table", "legend");
    this.caption = table.appendChild(make("caption", "", ""));
    const head = table.createTHead().insertRow();
    for (const text of ["Series", "Value", "Min", "Max"]) {
      const cell = head.appendChild(make("th", "", text));
      cell.scope = "col";
    }
    const rows = table.createTBody();
    this.cells = this.series.map(({ label }, index) => {
      const row = rows.insertRow();
      const name = row.appendChild(make("th"));
      name.scope = "row";
      const mark = svg("svg", { class: "swatch", viewBox: "0 0 24 10", "aria-hidden": "true" });
      mark.append(this.stack ? svg("rect", { width: 24, height: 10, rx: 2, fill: colour(index) }) : svg("path", { d: "M0 5h24", fill: "none", stroke: colour(index), "stroke-width": 2.5, "stroke-dasharray": dash(index).join(" ") || "none" }));
      name.append(mark, label);
      return [row.insertCell(), row.insertCell(), row.insertCell()];
    });
    return table;
  }

  read() {
    if (!this.plot) return;
    const last = this.at.length - 1;
    const under = this.plot.cursor.left >= 0 ? this.plot.cursor.idx : null;
    const index = under ?? last;
    const time = `${clock.format(this.at[index] * 1000)} UTC`;
    this.caption.textContent = under === null || under === undefined ? `Newest, ${time}` : time;
    this.series.forEach(({ values, unit }, row) => {
      let [least, most] = [Infinity, -Infinity];
      for (const value of values) if (value !== null) { least = Math.min(least, value); most = Math.max(most, value); }
      const cells = this.cells[row];
      cells[0].textContent = full(values[index], unit);
      cells[1].textContent = least <= most ? short(least, unit) : "\u2013";
      cells[2].textContent = least <= most ? short(most, unit) : "\u2013";
    });
    this.over.setAttribute("aria-valuemin", 0);
    this.over.setAttribute("aria-valuemax", last);
    this.over.setAttribute("aria-valuenow", index);
    this.over.setAttribute("aria-valuetext", `${time}: ${this.series.map(({ label, unit, values }) => `${label} ${full(values[index], unit)}`).join(", ")}`);
  }

  step(event) {
    const last = this.at.length - 1;
    const index = this.plot.cursor.left >= 0 ? this.plot.cursor.idx ?? last : last;
    const to = { ArrowLeft: index - 1, ArrowDown: index - 1, ArrowRight: index + 1, ArrowUp: index + 1, PageDown: index - 10, PageUp: index + 10, Home: 0, End: last }[event.key];
    if (event.key === "Escape") return this.plot.setCursor({ left: -10, top: -10 });
    if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.plot.setCursor({ left: this.plot.valToPos(this.at[Math.max(0, Math.min(last, to))], "x"), top: 10 });
  }

  resize() {
    const width = this.over?.clientWidth;
    if (!this.plot || !width || width === this.width) return;
    this.width = width;
    this.plot.setSize({ width, height: HEIGHT });
  }
}

// ---- The page's series ----

readColours();
const all = [...document.querySelectorAll(".series[data-url]")].map((element) => new Series(element));

if (!uPlot) {
  for (const series of all) series.say("These numbers cannot be drawn.", "The script that draws them could not be loaded.", "alert");
} else {
  // Those far down are fetched and drawn when somebody comes near.
  const near = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      all.find(({ element }) => element === target).load();
    }
  }, { rootMargin: "300px" });
  for (const { element } of all) near.observe(element);

  document.addEventListener("tapeline:points", ({ detail }) => {
    for (const series of all) if (series.query === detail.query && series.kind === detail.series) series.add(detail);
  });
  document.addEventListener("tapeline:resync", () => { for (const series of all) if (series.series) series.load(); });
  document.addEventListener("tapeline:theme", () => {
    readColours();
    for (const series of all) if (series.plot) series.draw();
  });
}
