// Shared by the heatmap and the line plot: loading plotly.js once, colours of the theme, one plot's life.

// One load per page and address, shared by all plots. Streamlit's own chart chunk may set window.Plotly too, so the
// object is kept at load time and never read from window again. A blob module needs an absolute address.
const libs = (globalThis.__routeprintLibs ??= new Map());
function loadPlotly(path) {
  const url = new URL(path, location.origin).href;
  if (!libs.has(url)) {
    libs.set(url, import(url).then(() => globalThis.Plotly).catch(error => { libs.delete(url); throw error; }));
  }
  return libs.get(url);
}

// Lines of runs beside each other: after Okabe and Ito, darker or lighter for their ground; each has a dash of its own, too.
const series = colors => Object.fromEntries(colors.map((color, i) => [`series${i}`, color]));

function luminance(color) {
  const probe = document.createElement('canvas').getContext('2d');
  probe.fillStyle = color || '#fff';
  const hex = probe.fillStyle;
  const [r, g, b] = [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));
  return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
}

// Colours by meaning, never by name in the data: safe is blue, unsafe is red (both keep apart for every kind of
// colour vision), and each line also has its own dash or marker.
function themeOf(element) {
  const css = name => getComputedStyle(element).getPropertyValue(name).trim();
  const background = css('--st-background-color') || '#fff';
  const dark = luminance(background) < 0.4;
  return {
    dark, background, text: css('--st-text-color'), border: css('--st-border-color'), box: css('--st-secondary-background-color'),
    primary: css('--st-primary-color'), font: css('--st-font'),
    grid: dark ? 'rgba(255,255,255,.09)' : 'rgba(0,0,0,.08)',
    roles: dark
      ? {all: '#e4e2dc', safe: '#74b0e4', unsafe: '#f08573', accent: '#5cc2bc', quiet: '#7d8791', floor: '#a7adb3', ...series(['#e4e2dc', '#e8a33d', '#74b0e4', '#4fc08d', '#e58fc4', '#d9d36a', '#f0815f', '#9aa4ae'])}
      : {all: '#1d2126', safe: '#2166ac', unsafe: '#b2182b', accent: '#0b6b70', quiet: '#9a968c', floor: '#6f6b62', ...series(['#1d2126', '#b36a00', '#0072b2', '#007a58', '#a8477f', '#7a7400', '#b8420b', '#6f6b62'])},
    // Diverging, symmetric, safe for colour-blind eyes; the middle is the page's own ground, so nothing glares at night.
    scale: dark
      ? ['#b7dcff', '#7dbaf0', '#4a92d0', '#2f6699', '#24405a', '#232a31', '#5a302c', '#97443a', '#cf604d', '#f08f78', '#ffc9b8']
      : ['#053061', '#2166ac', '#4393c3', '#92c5de', '#d1e5f0', '#f7f7f5', '#fddbc7', '#f4a582', '#d6604d', '#b2182b', '#67001f'],
    // For what has nothing to do with safe and unsafe: more or less than an even share, or than chance.
    share: dark
      ? ['#ead2f5', '#c9a3e0', '#a172c2', '#734a91', '#463155', '#232a31', '#27493a', '#377150', '#4f9e6c', '#84cf98', '#c6f2cf']
      : ['#40004b', '#762a83', '#9970ab', '#c2a5cf', '#e7d4e8', '#f7f7f5', '#d9f0d3', '#a6dba0', '#5aae61', '#1b7837', '#00441b'],
    // From nothing to much.
    amount: dark
      ? ['#232a31', '#24484a', '#2a6b6b', '#399390', '#5cc2bc', '#9be3dd', '#d9fbf7']
      : ['#f7f7f5', '#d0e7e5', '#9fd0cd', '#5fb0ae', '#238a8b', '#0b6b70', '#053f43'],
    missing: dark ? '#3d464f' : '#c9c6bf',
    mark: dark ? '#ffffff' : '#000000', halo: dark ? '#000000' : '#ffd400',
  };
}

function baseLayout(theme, height, narrow) {
  return {
    height, autosize: true, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
    font: {family: theme.font, color: theme.text, size: 12.5}, margin: {l: narrow ? 44 : 56, r: 10, t: 30, b: 44},
    hoverlabel: {bgcolor: theme.box, bordercolor: theme.border, font: {family: theme.font, color: theme.text, size: 13}, align: 'left'},
    hovermode: 'closest', dragmode: 'zoom',
    modebar: {bgcolor: 'rgba(0,0,0,0)', color: theme.roles.quiet, activecolor: theme.primary, orientation: 'h'},
  };
}

// plotly.js 4 otherwise adds "Share chart…", which uploads the data.
function plotConfig(Plotly, filename) {
  return {
    displaylogo: false, responsive: false, scrollZoom: false, showTips: false, showSendToCloud: false, plotlyServerURL: '',
    modeBarButtonsToRemove: ['sendChartToCloud', 'toImage', 'select2d', 'lasso2d', 'autoScale2d'],
    modeBarButtonsToAdd: [{name: 'png', title: 'Save as PNG', icon: Plotly.Icons.camera, click: host => savePicture(Plotly, host, filename)}],
  };
}

// Plotly's own picture, on the page's ground: the plot itself has none, and light words on nothing cannot be read.
function savePicture(Plotly, host, filename) {
  const {width, height} = host._fullLayout, layout = {...host.layout, width, height, paper_bgcolor: themeOf(host).background};
  return Plotly.downloadImage({data: host.data, layout}, {format: 'png', filename, scale: 2, width, height});
}

// Redraw on resize and on a theme switch; both are told to the plot through its newest `draw`.
function watch(host, state) {
  state.seen = {width: host.offsetWidth, ground: themeOf(host).background};
  const check = () => {
    const now = {width: host.offsetWidth, ground: themeOf(host).background};
    if (!now.width || (now.width === state.seen.width && now.ground === state.seen.ground)) return;
    state.seen = now;
    state.draw();
  };
  state.resize = new ResizeObserver(check);
  state.resize.observe(host);
  state.themeTimer = setInterval(check, 700);
}

// What a component's function returns is called when its figure goes, but also when its data changed again before it was
// done: then the newer call has taken over, and nothing must go.
function ended(state) {
  if (state.host.isConnected) return;
  state.resize?.disconnect();
  clearInterval(state.themeTimer);
  state.run++;
  state.Plotly.purge(state.host);
  delete state.host.__rp;
}
