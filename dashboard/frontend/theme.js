// Streamlit gives its theme's variables to components only; this passes them on to the page's own HTML, also after a
// switch between light and dark.
const NAMES = ['text-color', 'background-color', 'secondary-background-color', 'border-color', 'primary-color', 'link-color',
  'red-color', 'blue-color', 'green-text-color', 'red-text-color', 'code-font', 'code-background-color', 'code-text-color', 'font'];

// st.switch_page writes two history entries, the first of them the old page with the new page's query: going back would
// stop there. The second entry therefore takes the first one's place.
function mendHistory() {
  if (history.__routeprint) return;
  history.__routeprint = true;
  const push = history.pushState.bind(history);
  let last = null;
  history.pushState = (state, title, url) => {
    const to = new URL(url, location.href), soon = last && performance.now() - last.at < 5000;
    const second = soon && to.search && last.search === to.search && last.path === location.pathname && last.path !== to.pathname;
    last = second ? null : {path: to.pathname, search: to.search, at: performance.now()};
    return second ? history.replaceState(state, title, url) : push(state, title, url);
  };
}

export default function ({data, parentElement}) {
  mendHistory();
  loadPlotly(data.lib).catch(() => {});  // fetched while the server still works on the page; the plots share it

  const probe = document.createElement('canvas').getContext('2d');
  const bright = color => {
    probe.fillStyle = color;
    const [r, g, b] = [1, 3, 5].map(i => parseInt(probe.fillStyle.slice(i, i + 2), 16));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b > 130;
  };
  const copy = () => {
    const style = getComputedStyle(parentElement), root = document.documentElement;
    const values = new Map(NAMES.map(name => [`--st-${name}`, style.getPropertyValue(`--st-${name}`).trim()]));
    // Streamlit writes white on its primary colour, whatever that is.
    values.set('--rp-on-primary', bright(values.get('--st-primary-color') || '#000') ? '#0c1416' : '#ffffff');
    // All are read before the first is written: each reading after a writing makes the browser style the whole page anew.
    for (const [name, value] of values) if (value && root.style.getPropertyValue(name) !== value) root.style.setProperty(name, value);
  };
  copy();
  const timer = setInterval(copy, 600);
  return () => clearInterval(timer);
}
