// The list of all trainings that the user may see.
import {spark} from './charts.js';
import {follow} from './theme.js';
import {answer, element, moment, number, state, whole} from './words.js';

const table = document.getElementById('runs');
const headline = document.getElementById('headline');
let was = '';

async function tick() {
  let wait = 10000;
  try {
    const {runs, complete} = await answer(await fetch('api/runs'));
    show(runs);
    const going = runs.filter((r) => r.status === 'running' || r.status === 'saving').length;
    headline.textContent = runs.length ? `${runs.length} run${runs.length > 1 ? 's' : ''}, ${going} training now` : 'No run yet: trigger the DAG mtc_train.';
    wait = complete ? (going ? 4000 : 15000) : 200;
  } catch (error) {
    headline.textContent = error.message;
  }
  setTimeout(tick, wait);
}

function show(runs) {
  const key = JSON.stringify(runs) + document.documentElement.className;
  if (key === was) return;
  was = key;
  table.hidden = !runs.length;
  table.tBodies[0].replaceChildren(...runs.map((run) => {
    const cell = element('td', {className: 'spark'});
    const metric = run.metric === 'auc' ? 'AUC' : 'PCK@0.1';
    const row = element('tr', {},
      element('td', {}, element('a', {href: `run?dag_id=${encodeURIComponent(run.dag_id)}&run_id=${encodeURIComponent(run.run_id)}`}, run.run_id), element('div', {className: 'quiet'}, run.name ?? '')),
      element('td', {}, state(run.status ?? 'reading …'), element('div', {className: 'quiet'}, `DAG run ${run.state}`)),
      element('td', {className: 'number'}, run.step === null || run.step === undefined ? '–' : `${whole(run.step)} of ${whole(run.last_step)}`),
      cell,
      element('td', {className: 'number'}, number(run.loss, 4)),
      element('td', {className: 'number'}, number(run.best), element('div', {className: 'quiet'}, run.best === null || run.best === undefined ? '' : metric)),
      element('td', {}, moment(run.start_date ?? run.run_after)));
    spark(cell, run.spark ?? []);
    return row;
  }));
}

follow(() => { was = ''; });
tick();
