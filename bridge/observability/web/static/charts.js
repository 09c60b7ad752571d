// Three small charts with one hand: pointer or arrow keys move the same cursor over all of them.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 720, HEIGHT = 100;

const KINDS = [
  { key: "changes", title: "Changes", draw: bars, words: (n) => `${n} ${n === 1 ? "change" : "changes"}`, sum: true },
  { key: "unsent", title: "Waiting to be sent", draw: area, words: (n) => `${n.toLocaleString()} waiting` },
  { key: "lag_seconds", title: "From change to confirm", draw: area, words: duration },
];

export function duration(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

export class Charts {
  constructor(host, clock) {
    this.clock = clock;
    this.charts = KINDS.map((kind) => this.build(kind, host));
    this.at = null;
  }

  build(kind, host) {
    const figure = document.createElement("figure"), caption = document.createElement("figcaption");
    const title = document.createElement("span"), readout = document.createElement("output");
    const plot = document.createElement("div"), top = document.createElement("span");
    const axis = document.createElement("div"), from = document.createElement("span"), to = document.createElement("span");
    const svg = document.createElementNS(SVG, "svg"), shape = document.createElementNS(SVG, "g");
    const cursor = document.createElementNS(SVG, "line");
    title.textContent = kind.title;
    caption.append(title, readout);
    plot.className = "plot"; top.className = "top"; axis.className = "axis";
    plot.tabIndex = 0;
    plot.setAttribute("role", "img");
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    cursor.classList.add("cursor");
    cursor.setAttribute("y1", 0); cursor.setAttribute("y2", HEIGHT);
    cursor.setAttribute("visibility", "hidden");
    svg.append(shape, cursor);
    to.textContent = "now";
    axis.append(from, to);
    plot.append(svg, top);
    figure.append(caption, plot, axis);
    host.append(figure);
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      this.point(Math.floor(((event.clientX - box.left) / box.width) * this.slots));
    });
    plot.addEventListener("pointerleave", () => this.point(null));
    plot.addEventListener("blur", () => this.point(null));
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      const at = this.at ?? this.slots - 1;
      this.point(Number.isFinite(step) ? at + step : step < 0 ? 0 : this.slots - 1);
    });
    return { kind, plot, shape, cursor, readout, top, from };
  }

  show(history) {
    this.history = history;
    this.slots = history.points;
    this.missing = this.slots - history.changes.length;
    for (const chart of this.charts) {
      const values = history[chart.kind.key];
      const most = Math.max(0, ...values);
      chart.shape.replaceChildren(...(values.length ? chart.kind.draw(values, this.missing, this.slots, most) : []));
      chart.top.textContent = most > 0 ? `max ${chart.kind.words(most)}` : "";
      chart.from.textContent = history.step_seconds * this.slots > 7200 ? "24 h ago" : "1 h ago";
      const total = values.reduce((sum, value) => sum + value, 0);
      chart.summary = chart.kind.sum ? chart.kind.words(total) : values.length ? `now ${chart.kind.words(values.at(-1))}` : "";
      const span = history.step_seconds * this.slots > 7200 ? "day" : "hour";
      chart.plot.setAttribute("aria-label", `${chart.kind.title} in the last ${span}: ${chart.summary}, at most ${chart.kind.words(most)}`);
    }
    this.point(this.at);
  }

  point(at) {
    const inside = at === null ? null : Math.min(this.slots - 1, Math.max(0, at));
    this.at = inside;
    const index = inside === null ? -1 : inside - this.missing;
    for (const chart of this.charts) {
      const value = this.history?.[chart.kind.key][index];
      const isOn = inside !== null && value !== undefined;
      chart.cursor.setAttribute("visibility", isOn ? "visible" : "hidden");
      if (isOn) {
        const x = ((inside + 0.5) / this.slots) * WIDTH;
        chart.cursor.setAttribute("x1", x); chart.cursor.setAttribute("x2", x);
        const age = (this.slots - 1 - inside) * this.history.step_seconds * 1000;
        chart.readout.textContent = `${this.clock(new Date(Date.parse(this.history.until) - age))}  ${chart.kind.words(value)}`;
      } else {
        chart.readout.textContent = chart.summary ?? "";
      }
    }
  }
}

function path(d, name) {
  const made = document.createElementNS(SVG, "path");
  made.setAttribute("d", d);
  made.classList.add(name);
  return made;
}

function bars(values, missing, slots, most) {
  const wide = WIDTH / slots;
  let d = "";
  values.forEach((value, index) => {
    if (!value) return;
    const high = Math.max(2, (value / most) * (HEIGHT - 16)), x = (missing + index) * wide;
    d += `M${x.toFixed(2)} ${HEIGHT}v${(-high).toFixed(2)}h${(wide * 0.9).toFixed(2)}v${high.toFixed(2)}z`;
  });
  return [path(d, "bars")];
}

function area(values, missing, slots, most) {
  const wide = WIDTH / slots;
  const line = values.map((value, index) => {
    const y = HEIGHT - (most ? (value / most) * (HEIGHT - 16) : 0);
    return `${((missing + index + 0.5) * wide).toFixed(2)} ${y.toFixed(2)}`;
  });
  const first = ((missing + 0.5) * wide).toFixed(2), last = ((missing + values.length - 0.5) * wide).toFixed(2);
  return [path(`M${first} ${HEIGHT}L${line.join("L")}L${last} ${HEIGHT}z`, "area"), path(`M${line.join("L")}`, "stroke")];
}
