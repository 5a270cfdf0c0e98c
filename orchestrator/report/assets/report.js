// The charts of a sweep's report: options for ECharts, made from the JSON in the page.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const trials = new Map(data.trials.map((trial) => [trial.index, trial]));
  const choices = {};
  let marked = null;
  const narrow = () => window.innerWidth < 640;
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const scoreName = `${data.metric} (${data.unit})`;
  const escapeText = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
  const format = (value) => (typeof value === "number" ? String(Number(value.toPrecision(4))) : String(value ?? "none"));
  const shorten = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
  const trialText = (index) => {
    const trial = trials.get(index);
    if (!trial) return "";
    const point = Object.entries(trial.point).map(([path, value]) => `${escapeText(path)} ${escapeText(format(value))}`);
    return [`<b>trial ${index}</b> (${escapeText(trial.state)})`, `${escapeText(data.metric)} ${format(trial.score)}`, ...point].join("<br>");
  };
  const axis = (name, extra = {}) => ({
    name, nameLocation: "middle", nameGap: 30, scale: true, type: "value",
    nameTextStyle: { color: color("text") }, axisLabel: { color: color("soft"), hideOverlap: true },
    axisLine: { lineStyle: { color: color("line") } }, splitLine: { lineStyle: { color: color("line"), opacity: .5 } }, ...extra,
  });
  const upright = (name, extra = {}) => axis(name, { nameGap: 52, nameTextStyle: { color: color("text"), width: 260, overflow: "truncate" }, ...extra });
  const base = (extra) => ({
    animation: false, textStyle: { fontFamily: "system-ui, sans-serif", color: color("text") },
    aria: { enabled: false }, grid: { left: 76, right: narrow() ? 16 : 36, top: 24, bottom: 54 },
    tooltip: { trigger: "item", confine: true, backgroundColor: color("panel"), borderColor: color("line"), textStyle: { color: color("text") } }, ...extra,
  });
  const trialColor = (index) => (index === marked ? color("best") : index === data.winner && marked === null ? color("best") : color("mark"));
  const scatter = (points, extra = {}) => ({
    type: "scatter", symbolSize: (value) => (value[2] === marked || (marked === null && value[2] === data.winner) ? 15 : 8),
    data: points.map((point) => ({ value: point, itemStyle: { color: trialColor(point[2]), opacity: .8 } })), z: 4, ...extra,
  });
  const pointText = (item) => (item.value && item.value[2] !== undefined ? trialText(item.value[2]) : escapeText(item.name));

  function leaderboard() {
    const order = data.order.slice(0, narrow() ? 20 : 40);
    const rows = order.map((index) => trials.get(index));
    const colors = ["soft", "warn", "text", "mark", "best"];
    const lines = data.baselines.map((line, at) => ({
      xAxis: line.value, lineStyle: { color: color(colors[at % colors.length]), type: at % 2 ? "dotted" : "dashed", width: 2 },
      label: { formatter: line.letter, color: color("text"), fontWeight: "bold", position: "start", distance: 4 },
    }));
    const values = [...rows.flatMap((t) => [t.low, t.high, t.score]), ...data.baselines.map((l) => l.value)].filter((v) => v !== null);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const spare = (high - low) * .05 || .01;
    return base({
      xAxis: axis(scoreName, { min: Math.max(low - spare, data.unit.startsWith("share") ? 0 : -Infinity), max: high + spare, axisLabel: { color: color("soft"), formatter: format, hideOverlap: true, showMinLabel: false, showMaxLabel: false } }),
      yAxis: upright(`trial, best first${order.length < data.order.length ? ` (${order.length} of ${data.order.length})` : ""}`, { type: "category", inverse: true, data: order.map(String) }),
      series: [
        { type: "custom", silent: true, data: rows.filter((t) => t.low !== null).map((t) => [t.low, t.high, String(t.index)]), encode: { x: [0, 1], y: 2 },
          renderItem: (_, api) => {
            const [from, to] = [api.coord([api.value(0), api.value(2)]), api.coord([api.value(1), api.value(2)])];
            return { type: "line", shape: { x1: from[0], y1: from[1], x2: to[0], y2: to[1] }, style: { stroke: color("soft"), lineWidth: 2 } };
          } },
        { ...scatter(rows.map((t) => [t.score, String(t.index), t.index])), markLine: { symbol: "none", silent: true, data: lines } },
      ],
      tooltip: { ...base({}).tooltip, formatter: pointText },
    });
  }

  function curves() {
    const kinds = [["curve", scoreName], ["valid_loss", "validation loss (nats per token)"], ["train_loss", "training loss (nats per token)"]]
      .filter(([key]) => data.trials.some((trial) => trial[key].length));
    const [key, name] = kinds[choices.curves || 0];
    const many = data.trials.length > 60;
    const front = marked ?? data.winner;
    return base({
      xAxis: axis("optimizer steps", { scale: false }), yAxis: upright(name),
      tooltip: { ...base({}).tooltip, formatter: (item) => `step ${item.value[0]}: ${format(item.value[1])}<br>${trialText(Number(item.seriesName))}` },
      series: data.trials.filter((trial) => trial[key].length).map((trial) => ({
        type: "line", name: String(trial.index), data: trial[key], showSymbol: trial[key].length < 3 || !many, symbolSize: 6,
        lineStyle: { width: trial.index === front ? 3.5 : 1.2, opacity: trial.index === front ? 1 : many ? .35 : .7 },
        color: trial.index === front ? color("best") : color("mark"), z: trial.index === front ? 5 : 2, triggerLineEvent: true, emphasis: { focus: "series" },
      })),
    });
  }

  function parallel() {
    const most = narrow() ? 4 : 7;
    const knobs = data.knobs.filter((knob) => !knob.linked).slice(0, most);
    const rows = data.order.map((index) => trials.get(index));
    const spread = (knob, log) => {
      const values = rows.map((t) => t.point[knob.path]).filter((v) => typeof v === "number");
      const [low, high] = [Math.min(...values), Math.max(...values)];
      return low < high ? { min: low, max: high } : log ? { min: low / 2, max: low * 2 } : { min: low - 1, max: low + 1 };
    };
    const axes = knobs.map((knob, dim) => {
      const numeric = knob.effect.numeric;
      const name = shorten(knob.path.replace("data.sources.", ""), narrow() ? 12 : 26);
      if (!numeric || knob.listed) return { dim, name, type: "category", data: [...new Set(rows.map((t) => t.point[knob.path]))].sort((a, b) => (numeric ? a - b : String(a).localeCompare(String(b)))).map(String), axisLabel: { color: color("soft") } };
      return { dim, name, type: knob.log && spread(knob).min > 0 ? "log" : "value", ...spread(knob, knob.log), axisLabel: { formatter: format, color: color("soft") } };
    });
    axes.push({ dim: axes.length, name: data.metric, type: "value", scale: true, axisLabel: { formatter: format, color: color("soft") } });
    for (const one of axes) one.axisLabel = { ...one.axisLabel, textBorderColor: color("page"), textBorderWidth: 4 };
    const front = marked ?? data.winner;
    const value = (trial, knob) => (knob.effect.numeric && !knob.listed ? trial.point[knob.path] : String(trial.point[knob.path]));
    return base({
      grid: undefined, parallel: { left: narrow() ? 36 : 70, right: narrow() ? 36 : 70, top: 44, bottom: 28, parallelAxisDefault: {
        nameTextStyle: { color: color("text") }, axisLine: { lineStyle: { color: color("soft") } }, axisLabel: { color: color("soft") }, areaSelectStyle: { color: color("best"), opacity: .3 } } },
      parallelAxis: axes,
      tooltip: { ...base({}).tooltip, formatter: (item) => trialText(Number(item.name)) },
      series: [{ type: "parallel", smooth: false, inactiveOpacity: .04, activeOpacity: .9, progressive: 0, data: rows.slice().reverse().map((trial) => ({
        name: String(trial.index), value: [...knobs.map((knob) => value(trial, knob)), trial.score],
        lineStyle: { color: trial.index === front ? color("best") : color("mark"), width: trial.index === front ? 4 : 1.2, opacity: trial.index === front ? 1 : rows.length > 100 ? .25 : .5 },
      })) }],
    });
  }

  function bars(names, values, unit, name, extra = []) {
    return base({
      grid: { left: narrow() ? 130 : 290, right: 40, top: 10, bottom: 54 },
      xAxis: axis(unit, { scale: false }),
      yAxis: { type: "category", inverse: true, data: names, name, nameLocation: "start", nameTextStyle: { color: color("text") }, axisLabel: { color: color("text"), width: narrow() ? 115 : 270, overflow: "truncate" }, axisLine: { lineStyle: { color: color("line") } } },
      tooltip: { ...base({}).tooltip, formatter: (item) => `${escapeText(item.name)}<br>${format(Array.isArray(item.value) ? item.value[0] : item.value)}` },
      series: [{ type: "bar", data: values, color: color("mark"), barMaxWidth: 22 }, ...extra],
    });
  }

  function importance() {
    const knobs = data.knobs.filter((knob) => knob.importance !== null);
    return bars(knobs.map((knob) => knob.path.replace("data.sources.", "")), knobs.map((knob) => knob.importance), "importance (share, all add up to 1)", "");
  }

  function response(effect, name, log) {
    const middle = effect.bins.map((bin) => [bin[0], bin[2]]);
    const line = (values, extra) => ({ type: "line", data: values, symbol: "none", silent: true, color: color("best"), ...extra });
    const bands = [
      line(effect.bins.map((bin) => [bin[0], bin[1]]), { stack: "band", lineStyle: { opacity: 0 } }),
      line(effect.bins.map((bin) => [bin[0], bin[3] - bin[1]]), { stack: "band", stackStrategy: "all", lineStyle: { opacity: 0 }, areaStyle: { color: color("band") } }),
    ];
    const xAxis = effect.numeric ? axis(name, { type: log ? "log" : "value", axisLabel: { formatter: format, color: color("soft"), hideOverlap: true } }) : axis(name, { type: "category", data: effect.bins.map((bin) => bin[0]) });
    if (effect.numeric && effect.points.length) {
      const values = effect.points.map((point) => point[0]);
      [xAxis.min, xAxis.max] = [Math.min(...values), Math.max(...values)];
      if (xAxis.min === xAxis.max) [xAxis.min, xAxis.max] = [xAxis.min - 1, xAxis.max + 1];
    }
    return base({
      xAxis, yAxis: upright(scoreName), tooltip: { ...base({}).tooltip, formatter: pointText },
      series: [scatter(effect.points), ...(effect.bins.length > 1 ? [...bands, line(middle, { lineStyle: { width: 2 } })] : [])],
    });
  }

  function effect() {
    const knob = data.knobs[choices.effect || 0];
    return response(knob.effect, `${knob.path} (${knob.log ? "logarithmic" : "value of the setting"})`, knob.effect.log && knob.effect.points.every((p) => p[0] > 0));
  }

  function mix() {
    const entry = data.mix[choices.mix || 0];
    return response(entry.effect, `share of ${entry.source} among the training rows (0 to 1)`, false);
  }

  function cost() {
    const entry = data.costs[choices.cost || 0];
    const at = new Map(entry.points.map((point) => [point[2], point]));
    return base({
      xAxis: axis(`${entry.name} (${entry.unit})`, { axisLabel: { formatter: (v) => v.toLocaleString("en"), color: color("soft"), hideOverlap: true } }), yAxis: upright(scoreName),
      tooltip: { ...base({}).tooltip, formatter: (item) => `${format(item.value[0])} ${escapeText(entry.unit)}<br>${pointText(item)}` },
      series: [scatter(entry.points), { type: "line", step: "end", symbol: "none", silent: true, color: color("best"), lineStyle: { width: 2 }, data: entry.front.map((index) => at.get(index).slice(0, 2)) }],
    });
  }

  function slices() {
    const rows = data.slices[choices.slices || 0].rows;
    const whiskers = { type: "custom", silent: true, z: 5, encode: { x: [0, 1], y: 2 },
      data: rows.map((row, at) => [row.low, row.high, at]).filter((row) => row[0] !== null && row[1] !== null),
      renderItem: (_, api) => {
        const [from, to] = [api.coord([api.value(0), api.value(2)]), api.coord([api.value(1), api.value(2)])];
        return { type: "line", shape: { x1: from[0], y1: from[1], x2: to[0], y2: to[1] }, style: { stroke: color("best"), lineWidth: 2 } };
      } };
    return bars(rows.map((row) => `${row.name}${row.rows ? ` (${row.rows})` : ""}`), rows.map((row) => row.value), scoreName, "", [whiskers]);
  }

  function errors() {
    return bars(data.errors.map((entry) => entry.kind), data.errors.map((entry) => entry.count), "wrong answers (test rows)", "");
  }

  const rowsOf = { leaderboard: () => Math.min(data.order.length, narrow() ? 20 : 40), slices: () => data.slices[choices.slices || 0].rows.length };

  const drawers = { leaderboard, curves, parallel, importance, effect, mix, cost, slices, errors };
  const charts = new Map();

  function draw(name) {
    const entry = charts.get(name);
    if (!entry || !entry.chart) return;
    entry.cursor = null;
    if (rowsOf[name]) entry.element.style.minHeight = `${rowsOf[name]() * 17 + 90}px`;
    entry.chart.setOption(drawers[name](), { notMerge: true });
  }

  function open(name, element) {
    if (rowsOf[name]) element.style.minHeight = `${rowsOf[name]() * 17 + 90}px`;
    const chart = echarts.init(element);
    charts.set(name, { chart, element, cursor: null });
    chart.on("click", (event) => mark(trialOf(name, event)));
    draw(name);
    element.dataset.drawn = "true";
    let first = true;
    new ResizeObserver(() => { if (first) { first = false; return; } chart.resize(); draw(name); }).observe(element);
    element.addEventListener("keydown", (event) => walk(event, name));
  }

  function trialOf(name, event) {
    if (name === "curves") return Number(event.seriesName);
    if (name === "parallel") return Number(event.name);
    return Array.isArray(event.value) && typeof event.value[2] === "number" ? event.value[2] : null;
  }

  function walk(event, name) {
    const entry = charts.get(name);
    const series = entry.chart.getOption().series;
    const stops = name === "curves" ? series.map((one, at) => [at, one.data.length - 1]) : series[name === "leaderboard" ? 1 : 0].data.map((_, at) => [name === "leaderboard" ? 1 : 0, at]);
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!stops.length || (!move && event.key !== "Enter" && event.key !== "Escape")) return;
    event.preventDefault();
    if (event.key === "Escape") { mark(null); return; }
    if (move) {
      entry.cursor = entry.cursor === null ? 0 : (entry.cursor + move + stops.length) % stops.length;
      const [seriesIndex, dataIndex] = stops[entry.cursor];
      entry.chart.dispatchAction({ type: "showTip", seriesIndex, dataIndex });
      document.getElementById(`chart-${name}`).dataset.cursor = String(entry.cursor);
      return;
    }
    if (entry.cursor === null) return;
    const cursor = entry.cursor;
    const [seriesIndex, dataIndex] = stops[cursor];
    const point = series[seriesIndex].data[dataIndex];
    mark(trialOf(name, { seriesName: series[seriesIndex].name, name: point.name, value: point.value ?? point }));
    entry.cursor = cursor;
  }

  function mark(index) {
    if (index !== null && !trials.has(index)) return;
    marked = index === marked ? null : index;
    for (const name of charts.keys()) draw(name);
    for (const button of document.querySelectorAll("[data-trial]")) button.closest("tr").classList.toggle("marked", Number(button.dataset.trial) === marked);
    const aside = document.getElementById("marked");
    aside.hidden = marked === null;
    aside.innerHTML = marked === null ? "" : `<span>${trialText(marked).replaceAll("<br>", " · ")}</span><button type="button">Unmark</button>`;
    aside.querySelector("button")?.addEventListener("click", () => mark(null));
  }

  function sort(button) {
    const head = button.closest("th");
    const column = [...head.parentNode.children].indexOf(head);
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentNode.children) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = head.closest("table").tBodies[0];
    const text = (row) => row.children[column].textContent;
    const missing = (value) => value === "–" || value === "";
    const compare = (a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
    const rows = [...body.rows].sort((a, b) => {
      const [left, right] = [text(a), text(b)];
      if (missing(left) || missing(right)) return missing(left) - missing(right);
      return (up ? 1 : -1) * compare(left, right);
    });
    body.append(...rows);
  }

  const lazily = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((one) => one.isIntersecting)) {
      lazily.unobserve(entry.target);
      open(entry.target.dataset.chart, entry.target);
    }
  }, { rootMargin: "200px" });
  for (const element of document.querySelectorAll("[data-chart]")) lazily.observe(element);
  window.addEventListener("beforeprint", () => {
    for (const element of document.querySelectorAll("[data-chart]:not([data-drawn])")) { lazily.unobserve(element); open(element.dataset.chart, element); }
  });
  for (const select of document.querySelectorAll("[data-choice]")) select.addEventListener("change", () => { choices[select.dataset.choice] = Number(select.value); draw(select.dataset.choice); });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.trial) mark(Number(button.dataset.trial));
    else if (button.closest("th")) sort(button);
    else if ("copy" in button.dataset) {
      const text = button.parentNode.querySelector("pre").textContent;
      const done = () => { button.textContent = "Copied"; };
      navigator.clipboard?.writeText(text).then(done, () => getSelection().selectAllChildren(button.parentNode.querySelector("pre")));
    }
  });
  const redraw = () => { for (const name of charts.keys()) draw(name); };
  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  document.documentElement.dataset.ready = "true";
})();
