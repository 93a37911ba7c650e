// The page of one run: asks the server how it stands, draws what has changed, and passes requests on.
import {canDraw, Chart, join, smooth} from './charts.js';
import {Skeleton} from './skeleton.js';
import {colour, follow} from './theme.js';
import {answer, bytes, element, moment, number, span, state, whole} from './words.js';

const query = new URLSearchParams(location.search);
const [dag, run] = [query.get('dag_id'), query.get('run_id')];
const $ = (id) => document.getElementById(id);
const about = (id) => `dag_id=${encodeURIComponent(dag)}&run_id=${encodeURIComponent(id)}`;
const get = async (path) => answer(await fetch(path, {headers: {accept: 'application/json'}}));

const LIVE_MS = 2000;
const IDLE_MS = 15000;
const POINTS = 900;
const FIRST_ROWS = 12;
const OTHERS = ['orange', 'green', 'violet', 'grey', 'red'];

let now = null; // the last answer of api/run
let range = null; // [first, last] step that the charts show; null: all
let curves = null; // the last answer of api/series
let drawnStep = null;
const others = new Map(); // run id -> {series, run, colour}
const charts = {};
let skeletons = null;
let followsNewest = true;
let allCheckpoints = false;

// ---- the loop

let timer = null;
async function tick() {
  clearTimeout(timer);
  let wait = IDLE_MS;
  try {
    const earlier = now;
    now = await get(`api/run?${about(run)}`);
    if (!earlier) $('published').checked = now.published_fits;
    if (now.step !== drawnStep || !curves) await load();
    show();
    const going = now.live || ['running', 'queued', 'restarting'].includes(now.state);
    wait = going ? LIVE_MS : IDLE_MS;
  } catch (error) {
    if (error.status === 404 || error.status === 403 || error.status === 401) {
      $('headline').textContent = error.message;
      $('main').hidden = true;
      wait = IDLE_MS;
    } else {
      $('headline').textContent = `The server does not answer (${error.message}); trying again.`;
      wait = 5000;
    }
  }
  if (!document.hidden) timer = setTimeout(tick, wait);
}
document.addEventListener('visibilitychange', () => document.hidden || tick());

let loads = 0;
async function load() {
  const mine = ++loads;
  const part = range ? `&first=${range[0]}&last=${range[1]}` : '';
  const wanted = [run, ...others.keys()].map((id) => get(`api/series?${about(id)}&points=${POINTS}${part}`));
  const [own, ...rest] = await Promise.all(wanted);
  if (mine !== loads) return; // something else was asked for meanwhile
  curves = own;
  [...others.values()].forEach((other, i) => { other.series = rest[i]; });
  drawnStep = now.step;
}

// ---- what is shown

function show() {
  $('main').hidden = false;
  headline();
  facts();
  list($('warnings'), now.warnings);
  actions();
  drawCharts();
  pictures();
  checkpoints();
  report();
}

function headline() {
  $('title').textContent = `Training ${now.run_id}`;
  document.title = `Training ${now.run_id}`;
  const words = {
    running: 'Training', saving: 'Saving, then leaving', success: 'Trained', stopped: 'Stopped after saving', failed: 'Training failed',
    'broken off': 'Broken off (killed, or the machine went down)', 'not started': 'Training has not started',
  };
  const parts = [words[now.status] ?? now.status];
  if (now.step !== null) parts.push(`step ${whole(now.step)} of ${whole(now.last_step)}`);
  if (now.loss !== null) parts.push(`loss ${number(now.loss, 4)}`);
  if (now.eta_seconds !== null) parts.push(`${span(now.eta_seconds)} to go`);
  parts.push(`the DAG run is ${now.state}`);
  const text = parts.join(', ');
  if ($('headline').textContent !== text) $('headline').textContent = text;
  $('progress').hidden = now.step === null || !now.last_step;
  $('progress').value = now.last_step ? Math.min(1, (now.step ?? 0) / now.last_step) : 0;
}

function facts() {
  const device = now.device ?? {};
  const versions = now.versions ?? {};
  const newest = now.checkpoints.find((row) => row.state === 'uploaded');
  const best = now.evaluations.filter((e) => e.score !== null).reduce((a, b) => (a === null || b.score > a.score ? b : a), null);
  const total = now.breakdown ? now.breakdown.step + now.breakdown.data + now.breakdown.checkpoint : 0;
  const share = (part) => `${Math.round((100 * part) / total)} %`;
  const rows = [
    ['Images a second', number(now.images_per_second), now.mfu === null ? '' : `MFU ${number(100 * now.mfu, 2)} %`],
    ['Learning rate', number(now.learning_rate), ''],
    ['Best held-out score', best ? number(best.score) : '–', best ? `${now.metric === 'auc' ? 'AUC' : 'PCK@0.1'}, step ${whole(best.step)}` : ''],
    ['Last uploaded', newest ? `step ${whole(newest.step)}` : '–', newest?.time ? moment(newest.time) : ''],
    ['Device', device.kind ?? '–', device.name ?? ''],
    ['Memory of the trainer', now.memory ? bytes(now.memory.now) : '–', now.memory ? `at most ${bytes(now.memory.most)}` : ''],
    ['Time of the steps', total ? span(total) : '–', total ? `${share(now.breakdown.step)} steps, ${share(now.breakdown.data)} data, ${share(now.breakdown.checkpoint)} checkpoints` : ''],
    ['Starts', whole(now.starts), versions.tensorflow ? `TensorFlow ${versions.tensorflow}` : ''],
    ['Preset', now.name ?? '–', now.parameters ? `${whole(now.parameters)} parameters` : ''],
  ];
  $('facts').replaceChildren(...rows.map(([name, value, more]) => element('div', {}, element('dt', {}, name), element('dd', {}, value, more ? element('small', {}, more) : null))));
}

function list(section, items) {
  section.hidden = !items.length;
  const made = items.map((text) => element('li', {}, text));
  if (section.textContent.trim() !== made.map((m) => m.textContent).join('')) section.querySelector('ul').replaceChildren(...made);
}

function actions() {
  const why = !now.may_act ? 'You may look, but not act: that takes the right to edit runs of this DAG.'
    : !now.live ? 'Nobody trains at this moment.'
    : '';
  $('actions-why').textContent = why;
  $('actions-why').hidden = !why;
  $('actions-set').disabled = Boolean(why);
  if (!$('steps').value && now.last_step) $('steps').value = now.last_step;
  $('steps').min = now.step ?? 1;
  $('requests').hidden = !now.requests.length;
  const verbs = {save: 'save now', stop: 'stop and save', steps: 'last step', lr_factor: 'learning rate ×'};
  $('requests').querySelector('tbody').replaceChildren(...[...now.requests].reverse().map((r) => element('tr', {},
    element('td', {}, moment(r.time)), element('td', {}, r.by || 'somebody'), element('td', {}, `${verbs[r.action] ?? r.action} ${r.value ?? ''}`),
    element('td', {}, r.outcome ? `${r.outcome} after step ${whole(r.step)}${r.reason ? `: ${r.reason}` : ''}` : 'waits for the end of a step'))));
}

// ---- charts

function makeCharts() {
  const parent = $('charts');
  charts.loss = new Chart(parent, {title: 'Loss', note: 'heat-maps and POF together; the band spans lowest and highest', wide: true, zoom, height: 300});
  charts.heat = new Chart(parent, {title: 'Heat-map loss (2D)', note: 'dashed: of an answer that is empty', zoom});
  charts.pof = new Chart(parent, {title: 'POF loss', note: 'dashed: of an answer that is empty', zoom});
  charts.score = new Chart(parent, {title: 'Held-out score', zoom, zero: true});
  charts.rate = new Chart(parent, {title: 'Images a second', note: 'right: MFU', zoom, zero: true, right: (v) => (now.mfu && now.images_per_second ? `${number((100 * v * now.mfu) / now.images_per_second, 2)} %` : '')});
  charts.time = new Chart(parent, {title: 'Seconds a step', note: 'of it waiting for data; points: held up by a checkpoint', unit: ' s', zoom, zero: true});
  charts.lr = new Chart(parent, {title: 'Learning rate', zoom, zero: true});
}

function drawCharts() {
  if (!charts.loss) makeCharts();
  const weight = Number($('smoothing').value);
  const log = $('log').checked;
  const x = curves.steps;
  const shown = {log, range};
  const runs = [...others.values()].filter((other) => other.series?.steps.length);
  const join2 = (own, pick) => join([own, ...runs.map((o) => ({x: o.series.steps, ys: [pick(o)]}))]);
  const names = (what) => runs.map((o) => ({label: o.run.run_id, colour: colour(o.colour), ...what}));

  const total = curves.loss;
  const lines = $('published').checked ? Object.entries(now.published) : [];
  charts.loss.show(
    [
      {label: 'lowest', colour: 'transparent', quiet: true, width: 0},
      {label: 'highest', colour: 'transparent', quiet: true, width: 0, bandTo: 0, band: colour('band')},
      {label: weight ? 'loss, smoothed' : 'loss', colour: colour('blue'), width: 2},
      {label: 'empty answer', colour: colour('grey'), dash: [5, 4]},
      ...lines.map(([name]) => ({label: `published, ${name}`, colour: colour('red'), dash: [2, 3], quiet: true})),
      ...names({}),
    ],
    join2({x, ys: [positive(total.low, log), positive(total.high, log), smooth(positive(total.mean, log), weight), smooth(sum(curves.baseline_2d.mean, curves.baseline_pof.mean), weight), ...lines.map(([, v]) => x.map(() => v))]},
      (o) => smooth(positive(o.series.loss.mean, log), weight)),
    shown,
  );
  for (const [key, loss, baseline] of [['heat', 'loss_2d', 'baseline_2d'], ['pof', 'loss_pof', 'baseline_pof']]) {
    const nothing = curves[loss].high.every((v) => !v); // zero by construction: a warning says so
    charts[key].show(
      nothing ? [] : [{label: weight ? 'loss, smoothed' : 'loss', colour: colour('blue'), width: 2}, {label: 'empty answer', colour: colour('grey'), dash: [5, 4]}, ...names({})],
      join2({x, ys: [smooth(positive(curves[loss].mean, log), weight), smooth(positive(curves[baseline].mean, log), weight)]}, (o) => smooth(positive(o.series[loss].mean, log), weight)),
      shown,
    );
  }
  const scores = (r) => r.evaluations.filter((e) => e.score !== null && (!range || (e.step >= range[0] && e.step <= range[1])));
  const table = (r) => ({x: scores(r).map((e) => e.step), ys: [scores(r).map((e) => e.score)]});
  const judged = [now, ...runs.map((o) => o.run)].filter((r) => scores(r).length);
  charts.score.note.textContent = now.metric === 'auc' ? 'area under the PCK curve' : 'PCK@0.1: joints within a tenth of the yardstick';
  charts.score.show(judged.map((r) => ({label: r === now ? 'score' : r.run_id, colour: r === now ? colour('blue') : colour(others.get(r.run_id).colour), points: true})),
    judged.length ? join(judged.map(table)) : [[]], {range});
  const rate = (r, series) => series.seconds.mean.map((s) => (s && r.batch_size ? r.batch_size / s : null));
  charts.rate.show([{label: 'images a second', colour: colour('blue')}, ...names({})], join2({x, ys: [rate(now, curves)]}, (o) => rate(o.run, o.series)), {range});
  const stalls = now.checkpoints.filter((c) => Number.isFinite(c.stalled) && x.length && c.step >= (range?.[0] ?? x[0]) && c.step <= (range?.[1] ?? x[x.length - 1])).sort((a, b) => a.step - b.step);
  charts.time.show(
    [{label: 'step', colour: colour('blue')}, {label: 'of it, waiting for data', colour: colour('orange'), fill: colour('band')}, ...(stalls.length ? [{label: 'held up by a checkpoint', colour: colour('red'), width: 0, points: true}] : [])],
    stalls.length ? join([{x, ys: [curves.seconds.mean, curves.waited.mean]}, {x: stalls.map((c) => c.step), ys: [stalls.map((c) => c.stalled)]}]) : [x, curves.seconds.mean, curves.waited.mean],
    {range},
  );
  charts.lr.show([{label: 'learning rate', colour: colour('blue'), stepped: true}, ...names({stepped: true})], join2({x, ys: [curves.lr.mean]}, (o) => o.series.lr.mean), {range});
}

const positive = (values, log) => (log ? values.map((v) => (v > 0 ? v : null)) : values);
const sum = (a, b) => a.map((v, i) => (v === null || b[i] === null ? null : v + b[i]));

function zoom(to) {
  $('first').value = to ? to[0] : '';
  $('last').value = to ? to[1] : '';
  look(to);
}

function look(at) {
  range = at;
  load().then(drawCharts, () => tick());
}

function typedRange() {
  const [first, last] = [Number($('first').value) || 1, Number($('last').value) || now?.last_step || 1];
  if (!$('first').value && !$('last').value) look(null);
  else if (last > first) look([first, last]);
}

// ---- pictures, checkpoints, report

const viewer = new Skeleton($('skeleton'));

async function pictures() {
  const steps = now.previews;
  $('pictures').hidden = !steps.length;
  if (!steps.length) return;
  const slider = $('picture-step');
  slider.max = steps.length - 1;
  if (followsNewest) slider.value = steps.length - 1;
  const step = steps[Number(slider.value)];
  $('picture-step-value').textContent = whole(step);
  slider.setAttribute('aria-valuetext', `step ${step}`);
  if (skeletons?.step === step) return;
  try {
    skeletons = await get(`api/skeletons?${about(run)}&step=${step}`);
  } catch {
    return; // removed meanwhile: the next look shows others
  }
  $('sheet').src = `sheet?${about(run)}&step=${step}`;
  $('sheet-link').href = $('sheet').src;
  const person = Math.max(0, $('person').selectedIndex);
  $('person').replaceChildren(...skeletons.samples.map((s, i) => element('option', {value: i}, s.name)));
  $('person').selectedIndex = Math.min(person, skeletons.samples.length - 1);
  showPerson();
}

function showPerson() {
  const chosen = skeletons?.samples[$('person').selectedIndex];
  if (chosen) viewer.show(skeletons.joints, skeletons.edges, chosen.joints, chosen.name);
}

function checkpoints() {
  $('checkpoints').hidden = !now.checkpoints.length;
  $('score-title').textContent = now.metric === 'auc' ? 'AUC' : 'PCK@0.1';
  const key = JSON.stringify([now.checkpoints, allCheckpoints]);
  if (checkpoints.was === key) return;
  checkpoints.was = key;
  $('all-checkpoints').hidden = allCheckpoints || now.checkpoints.length <= FIRST_ROWS;
  $('all-checkpoints').textContent = `Show all ${now.checkpoints.length}`;
  $('checkpoints').querySelector('tbody').replaceChildren(...now.checkpoints.slice(0, allCheckpoints ? undefined : FIRST_ROWS).map((row) => {
    const where = row.uri && row.state === 'uploaded' ? row.uri : row.here ? `${now.run_dir}/checkpoints/step-${String(row.step).padStart(8, '0')}` : '';
    return element('tr', {},
      element('td', {className: 'number'}, whole(row.step)), element('td', {className: 'number'}, number(row.score)), element('td', {className: 'number'}, bytes(row.bytes)),
      element('td', {className: 'number'}, Number.isFinite(row.seconds) ? `${number(row.seconds, 2)} s` : '–'), element('td', {className: 'number'}, Number.isFinite(row.stalled) ? `${number(row.stalled, 2)} s` : '–'),
      element('td', {}, state(row.state), row.reason ? element('div', {className: 'quiet'}, row.reason) : null),
      element('td', {}, where ? copyButton(where, row.step) : '', where ? element('code', {}, where) : ''));
  }));
}

function copyButton(text, step) {
  const button = element('button', {type: 'button', 'aria-label': `Copy the place of the checkpoint of step ${step}`}, 'Copy');
  button.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = 'Copied';
    } catch { // no clipboard without https: select it, so that Ctrl-C does
      getSelection().selectAllChildren(button.nextSibling);
      button.textContent = 'Selected: Ctrl-C';
    }
    setTimeout(() => { button.textContent = 'Copy'; }, 2500);
  });
  return button;
}

function report() {
  const ready = now.report && !now.live;
  $('report').hidden = !ready;
  const source = `report?${about(run)}`;
  if (ready && !$('report-frame').src) $('report-frame').src = source;
}

// ---- requests

async function ask(action, value = null) {
  $('asked').textContent = 'Asking …';
  try {
    const said = await answer(await fetch(`api/control?${about(run)}`, {method: 'POST', headers: {'content-type': 'application/json'}, body: JSON.stringify({action, value})}));
    $('asked').textContent = said.said;
  } catch (error) {
    $('asked').textContent = error.message;
  }
  tick();
}

$('save').addEventListener('click', () => ask('save'));
$('stop').addEventListener('click', () => $('confirm').showModal());
$('confirm-yes').addEventListener('click', () => { $('confirm').close(); ask('stop'); });
$('confirm-no').addEventListener('click', () => $('confirm').close());
$('lr-form').addEventListener('submit', (event) => { event.preventDefault(); ask('lr_factor', Number($('lr').value)); });
$('steps-form').addEventListener('submit', (event) => { event.preventDefault(); ask('steps', Number($('steps').value)); });
$('view').addEventListener('submit', (event) => { event.preventDefault(); typedRange(); });
$('reset').addEventListener('click', () => zoom(null));
for (const id of ['smoothing', 'log', 'published']) $(id).addEventListener('input', () => {
  $('smoothing-value').textContent = Number($('smoothing').value).toFixed(2);
  if (curves) drawCharts();
});
$('picture-step').addEventListener('input', () => {
  followsNewest = Number($('picture-step').value) === Number($('picture-step').max);
  pictures();
});
$('person').addEventListener('change', showPerson);
$('all-checkpoints').addEventListener('click', () => { allCheckpoints = true; checkpoints(); });

// ---- other runs

$('compare').addEventListener('toggle', async () => {
  if (!$('compare').open) return;
  const {runs} = await get('api/runs');
  const fields = runs.filter((r) => r.dag_id === dag && r.run_id !== run && r.step !== null && r.step !== undefined).map((r) => {
    const box = element('input', {type: 'checkbox'});
    box.checked = others.has(r.run_id);
    const swatch = element('span', {className: 'swatch'});
    const paint = () => { swatch.style.background = others.has(r.run_id) ? colour(others.get(r.run_id).colour) : 'transparent'; };
    paint();
    box.addEventListener('change', async () => {
      if (box.checked) {
        const free = OTHERS.find((c) => ![...others.values()].some((o) => o.colour === c));
        if (!free) { box.checked = false; return; }
        others.set(r.run_id, {colour: free, run: await get(`api/run?${about(r.run_id)}`), series: null});
      } else {
        others.delete(r.run_id);
      }
      paint();
      await load();
      drawCharts();
    });
    return element('label', {}, box, swatch, r.run_id, element('span', {className: 'quiet'}, ` ${r.status ?? ''}, loss ${number(r.loss)}`));
  });
  $('compare').querySelector('fieldset').replaceChildren(element('legend', {className: 'hidden'}, 'Runs to lay over this one'), ...(fields.length ? fields : [element('p', {className: 'quiet'}, 'There is no other run with steps.')]));
});

follow(() => { if (curves) { drawCharts(); viewer.draw(); } });
if (!canDraw) $('view').hidden = true;
tick();
