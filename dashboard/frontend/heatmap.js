// A heatmap of [site, expert] with exact clicks. Python's selection wins when it changes, unless it only echoes ours.

function floats(base64) {
  if (Uint8Array.fromBase64) return new Float32Array(Uint8Array.fromBase64(base64).buffer);
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new Float32Array(bytes.buffer);
}

const minus = text => text.replace('-', '−');
const signed = (value, digits = 4) => Number.isFinite(value) ? minus((value >= 0 ? '+' : '') + value.toFixed(digits)) : 'no value';
const percent = value => (100 * value).toFixed(1) + ' %';
const chance = value => value < 0.001 ? '< 0.001' : '= ' + value.toFixed(3);

function rowsOf(values, rows, cols) {
  return Array.from({length: rows}, (_, r) => Array.from(values.subarray(r * cols, (r + 1) * cols), v => Number.isNaN(v) ? null : v));
}

// The words of one cell: hover, and what a screen reader hears.
function cellWords(S, r, c, separator) {
  const {data, arrays} = S, i = r * data.cols + c, lines = [`${data.row} ${data.labels[r]} · Expert ${c}`, `${data.unit} ${signed(arrays.z[i], data.digits)}`];
  if (arrays.more && Number.isFinite(arrays.more[i])) lines.push(`${data.moreWords} ${Number.isInteger(arrays.more[i]) ? arrays.more[i] : arrays.more[i].toFixed(2)}`);
  if (arrays.unsafe && arrays.safe) lines.push(`fires on ${percent(arrays.unsafe[i])} of unsafe, ${percent(arrays.safe[i])} of safe tokens`);
  if (arrays.floor) lines.push(`noise floor of this cell ±${arrays.floor[i].toFixed(4)}`);
  if (arrays.low && Number.isFinite(arrays.low[i])) lines.push(`${data.interval} ${signed(arrays.low[i])} to ${signed(arrays.high[i])}`);
  if (arrays.p && Number.isFinite(arrays.p[i])) lines.push(`p (max-T) ${chance(arrays.p[i])} · q ${chance(arrays.q[i])}`);
  if (arrays.frequency && Number.isFinite(arrays.frequency[i])) lines.push(`chosen in ${(100 * arrays.frequency[i]).toFixed(0)} % of resamples`);
  return lines.join(separator);
}

// An array whose entries are made when they are read: the words of 58 x 256 cells take longer than drawing them.
function lazily(length, make) {
  return new Proxy(new Array(length), {get: (array, at) => typeof at === 'string' && /^\d+$/.test(at) && at < length ? make(Number(at)) : array[at]});
}

// Pixels per cell: of the plot as it stands, or about so before the first drawing.
function cellSize({data, host}) {
  const axes = host._fullLayout, size = (axis, n, length) => axis?._length ? axis._length / Math.abs(axis.range[1] - axis.range[0]) : length / n;
  return [size(axes?.xaxis, data.cols, host.offsetWidth - (host.offsetWidth < 560 ? 52 : 140)), size(axes?.yaxis, data.rows, data.height - 74)];
}

// Marks are one path however many there are (a node per mark makes a page of 58 x 256 cells slow): a dot is a line
// segment as long as it is wide; an outline runs along the edges between cells inside and outside of the choice.
function dotPaths(S) {
  const [px, py] = cellSize(S), own = Math.max(3, Math.min(5, 0.42 * Math.min(px, py)));
  return [own + 1.6, own].map(size => {
    const half = size / 2 / px, x = [], y = [];
    for (const [r, c] of S.data.marks) { x.push(c - half, c + half, null); y.push(r, r, null); }
    return {x, y, size};
  });
}

function framePath({data}) {
  const {rows, cols} = data, inside = new Uint8Array(rows * cols), x = [], y = [];
  for (const [r, c] of data.frames) inside[r * cols + c] = 1;
  const at = (r, c) => r >= 0 && c >= 0 && r < rows && c < cols ? inside[r * cols + c] : 0;
  for (let r = 0; r <= rows; r++) for (let c = 0, from = null; c <= cols; c++) {
    const edge = c < cols && at(r - 1, c) !== at(r, c);
    if (edge && from === null) from = c;
    else if (!edge && from !== null) { x.push(from - 0.5, c - 0.5, null); y.push(r - 0.5, r - 0.5, null); from = null; }
  }
  for (let c = 0; c <= cols; c++) for (let r = 0, from = null; r <= rows; r++) {
    const edge = r < rows && at(r, c - 1) !== at(r, c);
    if (edge && from === null) from = r;
    else if (!edge && from !== null) { x.push(c - 0.5, c - 0.5, null); y.push(from - 0.5, r - 0.5, null); from = null; }
  }
  return {x, y};
}

function strokes(path, color, width) {
  return {type: 'scatter', mode: 'lines', x: path.x, y: path.y, hoverinfo: 'skip', showlegend: false, connectgaps: false, line: {color, width, simplify: false}};
}

function outline(S, theme) {
  if (!S.sel) return [];
  const {data, host} = S, axes = host._fullLayout;
  const px = axes?.xaxis?._length ? axes.xaxis._length / Math.abs(axes.xaxis.range[1] - axes.xaxis.range[0]) : 20;
  const py = axes?.yaxis?._length ? axes.yaxis._length / Math.abs(axes.yaxis.range[1] - axes.yaxis.range[0]) : 20;
  const [r, c] = S.sel;
  const frame = (pad, color, width) => ({type: 'rect', xref: 'x', yref: 'y', layer: 'above', fillcolor: 'rgba(0,0,0,0)', line: {color, width},
    x0: c - 0.5 - pad / px, x1: c + 0.5 + pad / px, y0: r - 0.5 - pad / py, y1: r + 0.5 + pad / py});
  return [frame(3, theme.halo, 3), frame(1, theme.mark, 2)];
}

function traces(S, theme, narrow) {
  const {data, arrays} = S, {rows, cols} = data;
  const hover = Array.from({length: rows}, (_, r) => lazily(cols, c => cellWords(S, r, c, '<br>')));
  const scale = theme[data.palette], steps = scale.length - 1;
  const map = {type: 'heatmap', z: rowsOf(arrays.z, rows, cols), text: hover, hovertemplate: '%{text}<extra></extra>', hoverongaps: false,
    colorscale: scale.map((color, i) => [i / steps, color]), zmin: data.vmin, zmax: data.vmax,
    xgap: cols <= 64 ? 1 : 0, ygap: rows <= 32 ? 1 : 0,
    colorbar: {thickness: 11, outlinewidth: 0, tickfont: {color: theme.text, size: 11.5}, nticks: 5, ticks: '', len: narrow ? 1 : 1,
      title: {text: data.unit, side: narrow ? 'top' : 'right', font: {size: 12}},
      ...(narrow ? {orientation: 'h', y: 1, yanchor: 'bottom', x: 0.5, ypad: 4} : {xpad: 8})}};
  const drawn = [map];
  if (data.frames.length) { const path = framePath(S), wide = cols > 64 ? 1.2 : 2; drawn.push(strokes(path, theme.background, wide + 1.6), strokes(path, theme.mark, wide)); }
  S.dotsAt = data.marks.length ? drawn.length : null;
  if (data.marks.length) { const [halo, dot] = dotPaths(S); drawn.push(strokes(halo, theme.background, halo.size), strokes(dot, theme.mark, dot.size)); }
  return drawn;
}

function tickRows(rows, height) {
  const every = Math.max(1, Math.ceil(rows / Math.max(2, Math.floor(height / 20))));
  return Array.from({length: Math.ceil(rows / every)}, (_, i) => i * every);
}

function layoutOf(S, theme, narrow) {
  const {data} = S, base = baseLayout(theme, data.height + (narrow ? 46 : 0), narrow), ticks = tickRows(data.rows, data.height - 74);
  const axis = {tickfont: {color: theme.text, size: 11.5}, showgrid: false, zeroline: false, ticks: '', constrain: 'domain'};
  return {...base, plot_bgcolor: theme.missing, uirevision: data.key, shapes: [], margin: {...base.margin, t: narrow ? 66 : 30, r: narrow ? 8 : 4},
    xaxis: {...axis, title: {text: 'Expert', font: {size: 12.5}}, range: [-0.5, data.cols - 0.5], ...(data.cols <= 16 ? {dtick: 1} : {})},
    yaxis: {...axis, title: {text: data.row, font: {size: 12.5}}, range: [data.rows - 0.5, -0.5], tickvals: ticks, ticktext: ticks.map(r => data.labels[r])}};
}

// Where the map is zoomed, the part that is shown goes along with whoever walks out of it.
function follow(S) {
  const axes = S.host._fullLayout, moved = {};
  for (const [name, at] of [['xaxis', S.sel[1]], ['yaxis', S.sel[0]]]) {
    const [from, to] = axes[name].range, low = Math.min(from, to), high = Math.max(from, to);
    const by = at - 0.5 < low ? at - 0.5 - low : at + 0.5 > high ? at + 0.5 - high : 0;
    if (by) moved[`${name}.range`] = [from + by, to + by];
  }
  return moved;
}

function keys(S, event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const {rows, cols} = S.data;
  const step = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -cols], End: [0, cols]}[event.key];
  if (step) {
    const clamp = (v, n) => Math.min(n - 1, Math.max(0, v));
    S.walking = true;
    S.move(S.sel ? [clamp(S.sel[0] + step[0], rows), clamp(S.sel[1] + step[1], cols)] : [0, 0]);
  } else if ((event.key === 'Enter' || event.key === ' ') && S.sel) S.pick(S.sel);
  else if (event.key === 'Escape') { S.walking = false; S.Plotly.Fx.unhover(S.host, {}, 'xy'); }
  else return;
  event.preventDefault();
  event.stopPropagation();
}

function bind(S) {
  const {host} = S;
  host.on('plotly_click', event => {
    const point = event.points?.find(p => Array.isArray(p.pointNumber));
    S.walking = false;
    if (point) S.pick([point.pointNumber[0], point.pointNumber[1]]);
  });
  host.on('plotly_relayout', change => {
    if (!Object.keys(change).some(k => /^[xy]axis/.test(k))) return;
    if (S.sel) S.frame();
    if (S.dotsAt == null) return;
    const paths = dotPaths(S), each = name => paths.map(path => path[name]);
    S.Plotly.restyle(host, {x: each('x'), y: each('y'), 'line.width': each('size')}, [S.dotsAt, S.dotsAt + 1]);
  });
  host.addEventListener('keydown', event => keys(S, event));
}

// Rows of the table behind: one per row of the map, one column per expert.
function behindRows({data, arrays}) {
  const head = [`${data.row}, ${data.unit}`, ...Array.from({length: data.cols}, (_, c) => `Expert ${c}`)];
  const rows = data.labels.map((name, r) => [`${data.row} ${name}`, ...Array.from({length: data.cols}, (_, c) => said(arrays.z[r * data.cols + c], data.digits))]);
  return {head, rows};
}

export default async function ({data, parentElement, setTriggerValue}) {
  const started = performance.now();
  const host = parentElement.querySelector('.rp-plot'), live = parentElement.querySelector('.rp-live');
  const S = (host.__rp ??= {sel: null, fromPython: undefined, sent: [], run: 0, host});
  S.data = data;
  S.trigger = setTriggerValue;
  host.setAttribute('aria-label', data.label);
  host.dataset.key = data.key;
  const asked = JSON.stringify(data.sel);
  if (asked !== S.fromPython) {
    const echo = S.sent.indexOf(asked);
    if (echo >= 0) S.sent.splice(0, echo + 1); else { S.sel = data.sel; S.walking = false; }
    S.fromPython = asked;
  }
  const key = JSON.stringify([data.key, data.stamp]);
  if (S.arraysOf !== key) {
    S.arrays = {z: floats(data.z)};
    for (const name of ['safe', 'unsafe', 'floor', 'more', 'low', 'high', 'p', 'q', 'frequency']) S.arrays[name] = data[name] ? floats(data[name]) : null;
    S.arraysOf = key;
    S.drawn = null;
  }
  host.style.minHeight = data.height + 'px';
  tableBehind(parentElement, data.label, () => behindRows(S));
  const run = ++S.run, Plotly = (S.Plotly = await loadPlotly(data.lib));
  if (run !== S.run || !host.isConnected) return;

  S.frame = (moved = {}) => Plotly.relayout(host, {...moved, shapes: outline(S, themeOf(host))});
  S.tip = () => { if (S.walking && S.sel && document.activeElement === host) Plotly.Fx.hover(host, {xval: S.sel[1], yval: S.sel[0]}, 'xy'); };
  S.move = sel => { S.sel = sel; live.textContent = cellWords(S, sel[0], sel[1], ', '); return S.frame(S.walking ? follow(S) : {}).then(S.tip); };
  S.pick = sel => { S.sent.push(JSON.stringify(sel)); S.trigger('cell', {row: sel[0], expert: sel[1]}); return S.move(sel); };
  S.draw = async () => {
    const theme = themeOf(host), narrow = host.offsetWidth < 560;
    await Plotly.react(host, traces(S, theme, narrow), layoutOf(S, theme, narrow), plotConfig(Plotly, S.data.filename));
    await S.frame();
  };
  const look = JSON.stringify([key, data.vmin, data.vmax, data.marks, data.frames, data.labels, data.height]);
  if (S.drawn !== look) { await S.draw(); S.drawn = look; } else await S.frame();
  if (run !== S.run) return;
  if (!S.bound) { S.bound = true; bind(S); watch(host, S); }
  S.tip();
  host.dataset.ms = (performance.now() - started).toFixed(0);
  host.dataset.title = data.label;  // what is painted, not only asked for
  host.dataset.marks = data.marks.length;
  host.dataset.frames = data.frames.length;
  host.dataset.drawn = `${data.rows}x${data.cols}`;
  host.dataset.sel = S.sel ? S.sel.join(',') : '';
  return () => { unwatch(S); S.run++; Plotly.purge(host); delete host.__rp; };
}
