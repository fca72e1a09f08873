// Draws the charts of the page from the rows in #data. It needs only `vegaEmbed`, and no network.
"use strict";
(() => {
  const { specs, charts } = JSON.parse(document.getElementById("data").textContent);
  const DAY = 86400000;
  const MARGIN = 76; // left of the axis: its labels and title
  const NARROW = 600; // px; narrower charts begin with fewer sessions
  const NARROW_SESSIONS = 63;
  const instant = (day) => Date.parse(`${day}T00:00:00Z`);
  const all = charts.sessions.map(instant);
  const ends = [all[0] - DAY, all[1] + DAY];
  const zooms = [];

  /** Columns as rows, each with its instant. */
  function rows(columns) {
    const names = Object.keys(columns);
    if (!names.length) return [];
    return columns[names[0]].map((_, i) => {
      const row = {};
      for (const name of names) row[name] = columns[name][i];
      if (row.day) row.date = instant(row.day);
      return row;
    });
  }

  /** The specification with this width. */
  function sized(spec, width) {
    if (spec === "container") return width;
    if (Array.isArray(spec)) return spec.map((each) => sized(each, width));
    if (spec === null || typeof spec !== "object") return spec;
    return Object.fromEntries(Object.entries(spec).map(([key, value]) => [key, sized(value, width)]));
  }

  const prepared = {
    calendar(spec) {
      const days = rows(charts.calendar);
      for (const row of days) {
        const date = new Date(row.date);
        const first = new Date(Date.UTC(date.getUTCFullYear(), 0, 1));
        row.year = date.getUTCFullYear();
        row.weekday = (date.getUTCDay() + 6) % 7;
        row.week = Math.floor(((date - first) / DAY + ((first.getUTCDay() + 6) % 7)) / 7);
      }
      spec.datasets = { rows: days };
    },
    prices(spec, figure) {
      const { bars, marks } = charts.prices[figure.dataset.ticker];
      const noted = {};
      const found = rows(marks);
      for (const mark of found) (noted[mark.day] ??= []).push(mark.said);
      const days = rows(bars);
      for (const row of days) row.noted = (noted[row.day] ?? ["none"]).join("; ");
      spec.datasets = { bars: days, marks: found };
      figure.days = days.map((row) => row.date);
      figure.shown ??= figure.clientWidth < NARROW ? newest(figure, NARROW_SESSIONS) : ends;
      spec.params[0].value = figure.shown;
    },
    checks(spec) {
      spec.datasets = { rows: rows(charts.checks) };
      spec.params[0].value = ends;
      spec.encoding.y.scale.domain = charts.names;
    },
    latency(spec) {
      spec.datasets = { rows: rows(charts.latency) };
      spec.params[0].value = ends;
    },
  };

  async function draw(figure) {
    const name = figure.dataset.chart;
    const margin = name === "checks" ? 110 : MARGIN;
    const spec = sized(specs[name], Math.max(figure.clientWidth - margin, 150));
    prepared[name](spec, figure);
    figure.view?.finalize();
    // Vega labels the element that it draws into. The figure keeps its own label, which says more.
    figure.firstElementChild ?? figure.appendChild(document.createElement("div")).setAttribute("aria-hidden", "true");
    figure.view = await vegaEmbed(figure.firstElementChild, spec, {
      ast: true, // expressions are interpreted, because the page forbids eval
      actions: false,
      config: specs.config,
      defaultStyle: false,
      renderer: "svg",
      tooltip: { theme: "page", disableDefaultStyle: true },
    });
  }

  /** The range of a chart's newest sessions. */
  function newest(figure, sessions) {
    const day = figure.days.at(-sessions) ?? figure.days[0];
    return [day - DAY, ends[1]];
  }

  function show(figure, range) {
    const span = Math.min(Math.max(range[1] - range[0], 10 * DAY), ends[1] - ends[0]);
    const first = Math.min(Math.max(range[0], ends[0]), ends[1] - span);
    figure.shown = [first, first + span];
    return figure.view?.view.signal("shown", figure.shown).runAsync();
  }

  /** Zoom by this factor around a point, which is given as a share of the range. */
  function zoom(figure, factor, at = 0.5) {
    const [first, last] = figure.shown;
    const point = first + (last - first) * at;
    show(figure, [point - (point - first) * factor, point + (last - point) * factor]);
  }

  function pan(figure, share) {
    const [first, last] = figure.shown;
    show(figure, [first + (last - first) * share, last + (last - first) * share]);
  }

  function listen(figure) {
    const keys = {
      ArrowLeft: () => pan(figure, -0.2),
      ArrowRight: () => pan(figure, 0.2),
      "+": () => zoom(figure, 0.7),
      "=": () => zoom(figure, 0.7),
      "-": () => zoom(figure, 1 / 0.7),
      0: () => show(figure, ends),
    };
    figure.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
      event.preventDefault();
      keys[event.key]();
    });
    figure.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey) return;
        event.preventDefault();
        const at = (event.clientX - figure.getBoundingClientRect().left - MARGIN) / (figure.clientWidth - MARGIN);
        zoom(figure, Math.exp(event.deltaY / 300), Math.min(Math.max(at, 0), 1));
      },
      { passive: false },
    );
    let from = null;
    figure.addEventListener("pointerdown", (event) => {
      if (event.button === 0) from = { x: event.clientX, shown: figure.shown };
    });
    window.addEventListener("pointermove", (event) => {
      if (!from) return;
      const moved = ((from.x - event.clientX) / (figure.clientWidth - MARGIN)) * (from.shown[1] - from.shown[0]);
      show(figure, from.shown.map((end) => end + moved));
    });
    for (const end of ["pointerup", "pointercancel"]) window.addEventListener(end, () => (from = null));
  }

  /** The rows of a chart as a table, made when it is opened. */
  function tabulate(details) {
    const { chart, ticker } = details.dataset;
    const columns = chart === "prices" ? charts.prices[ticker].bars : charts[chart];
    const box = document.createElement("div");
    box.className = "scrolled";
    box.tabIndex = 0;
    const table = box.appendChild(document.createElement("table"));
    const head = table.createTHead().insertRow();
    const names = Object.keys(columns);
    for (const name of names) {
      const cell = head.appendChild(document.createElement("th"));
      cell.scope = "col";
      cell.textContent = name.replaceAll("_", " ");
      if (typeof columns[name].find((value) => value !== null) === "number") cell.className = "number";
    }
    const body = table.createTBody();
    for (let i = (columns[names[0]] ?? []).length - 1; i >= 0; i--) {
      const row = body.insertRow();
      for (const name of names) {
        const cell = row.insertCell();
        const value = columns[name][i];
        cell.textContent = typeof value === "number" ? value.toLocaleString("en", { maximumFractionDigits: 4 }) : (value ?? "");
        cell.className = typeof value === "number" ? "number" : "text";
      }
    }
    details.append(box);
  }

  for (const details of document.querySelectorAll("details.numbers")) {
    details.addEventListener("toggle", () => tabulate(details), { once: true });
  }
  const figures = [...document.querySelectorAll("figure.chart")];
  const zoomed = figures.filter((figure) => figure.dataset.chart === "prices");
  zoomed.forEach(listen);
  for (const button of document.querySelectorAll(".zoom button")) {
    const sessions = Number(button.dataset.sessions);
    button.addEventListener("click", () => {
      for (const figure of zoomed) show(figure, sessions ? newest(figure, sessions) : ends);
    });
  }

  async function drawAll() {
    for (const figure of figures) await draw(figure);
  }
  let width = document.body.clientWidth;
  let pause;
  window.addEventListener("resize", () => {
    if (document.body.clientWidth === width) return;
    width = document.body.clientWidth;
    clearTimeout(pause);
    pause = setTimeout(() => (window.drawn = window.drawn.then(drawAll)), 200);
  });
  window.drawn = drawAll();
})();
