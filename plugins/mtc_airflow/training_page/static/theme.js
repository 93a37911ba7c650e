// Light or dark as Airflow is: the same origin, so its choice can be read; "system" follows the machine.
const dark = matchMedia('(prefers-color-scheme: dark)');

function chosen() {
  try {
    return localStorage.getItem('theme');
  } catch {
    return null;
  }
}

export function follow(changed) {
  const apply = () => {
    const theme = chosen();
    const is = theme === 'dark' || (theme !== 'light' && dark.matches);
    if (document.documentElement.classList.toggle('dark', is) !== follow.was) {
      follow.was = is;
      changed?.();
    }
  };
  follow.was = undefined;
  apply();
  addEventListener('storage', apply);
  dark.addEventListener('change', apply);
}

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim();
