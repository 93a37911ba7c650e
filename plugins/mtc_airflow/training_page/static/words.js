// Numbers and moments for people; elements without markup from data, ever.
export const number = (value, digits = 3) =>
  value === null || value === undefined || !Number.isFinite(value) ? '–'
    : value === 0 ? '0'
    : Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6 ? value.toExponential(Math.max(0, digits - 1))
    : Number(value.toPrecision(digits)).toLocaleString('en', {maximumFractionDigits: 6});

export const whole = (value) => (Number.isFinite(value) ? value.toLocaleString('en') : '–');

export const bytes = (value) => {
  if (!Number.isFinite(value)) return '–';
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let i = 0;
  while (value >= 1000 && i < units.length - 1) { value /= 1000; i += 1; }
  return `${Number(value.toPrecision(3))} ${units[i]}`;
};

export const span = (seconds) => {
  if (!Number.isFinite(seconds)) return '–';
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
};

export const moment = (value) => {
  if (!value) return '–';
  const date = typeof value === 'number' ? new Date(value * 1000) : new Date(value);
  return date.toLocaleString('en', {dateStyle: 'medium', timeStyle: 'short'});
};

export const STATES = {
  running: 'busy', saving: 'busy', success: 'good', uploaded: 'good', failed: 'bad', 'broken off': 'bad', 'upload failed': 'bad', queued: 'busy', waiting: 'busy',
};

export function element(tag, options = {}, ...children) {
  const {className, ...attributes} = options;
  const made = document.createElement(tag);
  if (className) made.className = className;
  for (const [name, value] of Object.entries(attributes)) if (value !== undefined && value !== null) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const state = (word) => element('span', {className: `state ${STATES[word] ?? ''}`}, word);

// Why a request failed, as the server says it.
export async function answer(response) {
  if (response.status === 401) throw new Error('You are signed out: reload the page.');
  const said = await response.json().catch(() => ({}));
  if (!response.ok) throw Object.assign(new Error(typeof said.detail === 'string' ? said.detail : `The server answers ${response.status}.`), {status: response.status});
  return said;
}
