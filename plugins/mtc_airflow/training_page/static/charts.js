// Charts by uPlot: what a curve is called, how it looks, and that all of them show the same steps.
import {colour} from './theme.js';
import {element, number, whole} from './words.js';

let uPlot = null;
try {
  ({default: uPlot} = await import('./vendor/uplot/uPlot.esm.js'));
} catch {
  uPlot = null; // the set-up could not reach the npm registry: tables say the same
}
export const canDraw = uPlot !== null;
const TABLE_ROWS = 12;

// Exponential moving average, corrected for its beginning, as TensorBoard has it.
export function smooth(values, weight) {
  let sum = 0;
  let norm = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = weight * sum + (1 - weight) * value;
    norm = weight * norm + (1 - weight);
    return sum / norm;
  });
}

// Curves on their own steps, joined on all steps: [{x, ys: [...]}] -> uPlot's table.
export const join = (tables) => (tables.length === 1 ? [tables[0].x, ...tables[0].ys] : uPlot.join(tables.map(({x, ys}) => [x, ...ys])));

export class Chart {
  constructor(parent, {title, note, wide, zoom, unit = '', height = 230, right = null, zero = false}) {
    this.options = {title, unit, height, right, zero, zoom};
    this.plot = element('div', {className: 'plot'});
    this.note = element('span', {className: 'quiet'}, note ?? '');
    this.table = element('table', {});
    const numbers = element('details', {}, element('summary', {}, 'Numbers'), element('div', {className: 'scroll'}, this.table));
    this.figure = element('figure', {className: wide ? 'wide' : ''}, element('figcaption', {}, element('h3', {}, title), this.note), this.plot, numbers);
    parent.append(this.figure);
    this.chart = null;
    this.shape = '';
    new ResizeObserver(() => this.chart && this.chart.width !== this.plot.clientWidth && this.chart.setSize({width: this.plot.clientWidth, height})).observe(this.plot);
  }

  // curves: [{label, colour, dash, points, fill, band: [low index, high index]}], data: uPlot's table; range: steps that are shown
  show(curves, data, {log = false, range = null} = {}) {
    const empty = data[0].length === 0 || curves.length === 0;
    this.figure.hidden = empty;
    if (empty) return;
    this.tabulate(curves, data);
    if (!uPlot) {
      this.plot.textContent = 'No charts: run “make setup” where the npm registry can be reached. The numbers are below.';
      this.plot.className = 'quiet';
      return;
    }
    const shape = JSON.stringify([curves.map(({label, colour: c, hidden}) => [label, c, hidden]), log, document.documentElement.className]);
    if (shape !== this.shape || !this.chart) {
      this.chart?.destroy();
      this.shape = shape;
      this.chart = new uPlot(this.settings(curves, log), data, this.plot);
    } else {
      this.chart.setData(data, false);
    }
    const xs = data[0];
    const [low, high] = range ?? [xs[0], xs[xs.length - 1]];
    this.quiet = true;
    this.chart.setScale('x', {min: low, max: Math.max(high, low + 1)});
    this.quiet = false;
    this.plot.setAttribute('role', 'img');
    this.plot.setAttribute('aria-label', `${this.options.title}: ${this.summary(curves, data)}`);
  }

  summary(curves, data) {
    return curves.map((curve, i) => {
      const values = data[i + 1].filter((v) => v !== null && v !== undefined);
      return curve.quiet || !values.length ? '' : `${curve.label} from ${number(values[0])} to ${number(values[values.length - 1])}`;
    }).filter(Boolean).join('; ');
  }

  settings(curves, log) {
    const {height, unit, right, zero, zoom} = this.options;
    const axis = {stroke: colour('muted'), grid: {stroke: colour('grid'), width: 1}, ticks: {stroke: colour('grid'), width: 1}, font: '11px system-ui, sans-serif'};
    const axes = [
      {...axis, values: (u, splits) => splits.map((v) => (Number.isInteger(v) ? whole(v) : ''))},
      {...axis, size: 62, values: (u, splits) => splits.map((v) => (v === null ? '' : number(v, 2) + unit))},
    ];
    if (right) axes.push({...axis, side: 1, size: 50, grid: {show: false}, values: (u, splits) => splits.map((v) => (v === null ? '' : right(v)))});
    const fit = (u, min, max) => {
      if (!Number.isFinite(min)) return [0, 1];
      if (min === max) return log ? [min / 2, max * 2] : [Math.min(0, min), max * 1.1 || 1];
      return log ? uPlot.rangeLog(min, max, 10, false) : uPlot.rangeNum(zero ? 0 : min, max, {min: {pad: 0.08, soft: 0, mode: zero ? 1 : 3}, max: {pad: 0.08}});
    };
    return {
      width: this.plot.clientWidth || 400, height, axes,
      scales: {x: {time: false}, y: {distr: log ? 3 : 1, range: fit}},
      cursor: {sync: {key: 'steps'}, drag: {x: true, y: false, setScale: false}},
      legend: {live: true},
      series: [
        {label: 'step', value: (u, v) => whole(v)},
        ...curves.map((c) => ({
          label: c.label, stroke: c.colour, width: c.width ?? 1.6, dash: c.dash, fill: c.fill, show: !c.hidden, spanGaps: true,
          paths: c.stepped ? uPlot.paths.stepped({align: 1}) : undefined, points: {show: c.points ?? false, size: 6, fill: c.colour},
          value: (u, v) => number(v, 4) + (v === null ? '' : unit),
        })),
      ],
      bands: curves.flatMap((c, i) => (c.bandTo === undefined ? [] : [{series: [i + 1, c.bandTo + 1], fill: c.band}])),
      hooks: {
        setSelect: [(u) => {
          if (this.quiet || u.select.width < 4) return;
          const [first, last] = [u.posToVal(u.select.left, 'x'), u.posToVal(u.select.left + u.select.width, 'x')].map(Math.round);
          u.setSelect({left: 0, top: 0, width: 0, height: 0}, false);
          if (last > first) zoom([first, last]);
        }],
        ready: [(u) => u.over.addEventListener('dblclick', () => zoom(null))],
      },
    };
  }

  tabulate(curves, data) {
    const shown = curves.map((curve, i) => ({...curve, i})).filter((curve) => !curve.quiet);
    const count = data[0].length;
    const rows = [...new Set(Array.from({length: Math.min(TABLE_ROWS, count)}, (_, i, n = Math.min(TABLE_ROWS, count)) => Math.round((i * (count - 1)) / Math.max(1, n - 1))))];
    this.table.replaceChildren(
      element('thead', {}, element('tr', {}, element('th', {scope: 'col'}, 'step'), ...shown.map((c) => element('th', {scope: 'col'}, c.label)))),
      element('tbody', {}, ...rows.map((row) => element('tr', {}, element('th', {scope: 'row'}, whole(data[0][row])),
        ...shown.map((c) => element('td', {}, number(data[c.i + 1][row], 4)))))),
    );
  }
}

// A curve without axes, for a table.
export function spark(parent, values) {
  if (!uPlot || values.filter((v) => v !== null).length < 2) return;
  const plot = new uPlot({
    width: 150, height: 34, axes: [{show: false}, {show: false}], legend: {show: false}, cursor: {show: false}, padding: [3, 2, 3, 2],
    scales: {x: {time: false}}, series: [{}, {stroke: colour('blue'), width: 1.4, points: {show: false}}],
  }, [values.map((_, i) => i), values], parent);
  plot.root.setAttribute('aria-hidden', 'true');
}
