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

// Marks are one shape however many there are: as points, or as lines with gaps, each would be an element of its own, and
// thousands of them take longer than the map. Their sizes are in pixels, so they are made anew after a zoom.
function dotRects(S, width) {
  const [px, py] = cellSize(S), size = Math.max(3, Math.min(5, 0.42 * Math.min(px, py))) + width, x = size / 2 / px, y = size / 2 / py;
  return S.data.marks.map(([r, c]) => [c - x, r - y, c + x, r + y]);
}

// An outline runs along the edges between cells inside and outside of the choice.
function frameRects(S, width) {
  const {rows, cols} = S.data, inside = new Uint8Array(rows * cols), rects = [];
  for (const [r, c] of S.data.frames) inside[r * cols + c] = 1;
  const at = (r, c) => r >= 0 && c >= 0 && r < rows && c < cols ? inside[r * cols + c] : 0;
  const [px, py] = cellSize(S), own = (cols > 64 ? 1.2 : 2) + width, x = own / 2 / px, y = own / 2 / py;
  for (let r = 0; r <= rows; r++) for (let c = 0, from = null; c <= cols; c++) {
    const edge = c < cols && at(r - 1, c) !== at(r, c);
    if (edge && from === null) from = c;
    else if (!edge && from !== null) { rects.push([from - 0.5 - x, r - 0.5 - y, c - 0.5 + x, r - 0.5 + y]); from = null; }
  }
  for (let c = 0; c <= cols; c++) for (let r = 0, from = null; r <= rows; r++) {
    const edge = r < rows && at(r, c - 1) !== at(r, c);
    if (edge && from === null) from = r;
    else if (!edge && from !== null) { rects.push([c - 0.5 - x, from - 0.5 - y, c - 0.5 + x, r - 0.5 + y]); from = null; }
  }
  return rects;
}

const pathOf = rects => rects.map(([x0, y0, x1, y1]) => `M${x0},${y0}L${x1},${y0}L${x1},${y1}L${x0},${y1}Z`).join('');

// Frames and dots, each with a halo below it: what is drawn, and how its path is made.
function patches(S, theme) {
  return [['frames', frameRects], ['marks', dotRects]].filter(([kind]) => S.data[kind].length).flatMap(([, make]) =>
    [[1.6, theme.background], [0, theme.mark]].map(([wider, color]) => ({color, path: () => pathOf(make(S, wider))})));
}

// The selection is always the first two shapes, so that moving it draws nothing else.
function outline(S, theme) {
  const [px, py] = cellSize(S), [r, c] = S.sel ?? [0, 0];
  const frame = (pad, color, width) => ({type: 'rect', xref: 'x', yref: 'y', layer: 'above', visible: !!S.sel, fillcolor: 'rgba(0,0,0,0)', line: {color, width},
    x0: c - 0.5 - pad / px, x1: c + 0.5 + pad / px, y0: r - 0.5 - pad / py, y1: r + 0.5 + pad / py});
  return [frame(3, theme.halo, 3), frame(1, theme.mark, 2)];
}

function shapes(S, theme) {
  S.patches = patches(S, theme);
  return [...outline(S, theme), ...S.patches.map(({color, path}) =>
    ({type: 'path', xref: 'x', yref: 'y', layer: 'above', path: path(), fillcolor: color, line: {width: 0}}))];
}

const resized = S => Object.fromEntries(S.patches.map((patch, i) => [`shapes[${i + 2}].path`, patch.path()]));

function moved(S, theme) {
  const changes = {};
  outline(S, theme).forEach((shape, i) => { for (const name of ['x0', 'x1', 'y0', 'y1', 'visible']) changes[`shapes[${i}].${name}`] = shape[name]; });
  return changes;
}

function traces(S, theme, narrow) {
  const {data, arrays} = S, {rows, cols} = data;
  const hover = Array.from({length: rows}, (_, r) => lazily(cols, c => cellWords(S, r, c, '<br>')));
  const scale = theme[data.palette], steps = scale.length - 1;
  const map = {type: 'heatmap', z: rowsOf(arrays.z, rows, cols), text: hover, hovertemplate: '%{text}<extra></extra>', hoverongaps: false,
    colorscale: scale.map((color, i) => [i / steps, color]), zmin: data.vmin, zmax: data.vmax,
    xgap: cols <= 64 ? 1 : 0, ygap: rows <= 32 ? 1 : 0,
    colorbar: {thickness: 11, outlinewidth: 0, tickfont: {color: theme.text, size: 11.5}, nticks: 5, ticks: '', len: 1, ticklabeloverflow: 'allow',
      title: {text: data.unit, side: narrow ? 'top' : 'right', font: {size: 12}},
      ...(narrow ? {orientation: 'h', y: 1, yanchor: 'bottom', x: 0.5, ypad: 4} : {xpad: 8})}};
  return [map];
}

function tickRows(rows, height) {
  const every = Math.max(1, Math.ceil(rows / Math.max(2, Math.floor(height / 20))));
  return Array.from({length: Math.ceil(rows / every)}, (_, i) => i * every);
}

function layoutOf(S, theme, narrow) {
  const {data} = S, base = baseLayout(theme, data.height + (narrow ? 46 : 0), narrow), ticks = tickRows(data.rows, data.height - 74);
  const axis = {tickfont: {color: theme.text, size: 11.5}, showgrid: false, zeroline: false, ticks: '', tickangle: 0, ticklabeloverflow: 'allow', constrain: 'domain'};
  return {...base, plot_bgcolor: theme.missing, uirevision: data.key, shapes: shapes(S, theme), margin: {...base.margin, t: narrow ? 66 : 30, r: narrow ? 8 : 4},
    xaxis: {...axis, title: {text: 'Expert', font: {size: 12.5}}, range: [-0.5, data.cols - 0.5], ...(data.cols <= 16 ? {dtick: 1} : {})},
    yaxis: {...axis, title: {text: data.row, font: {size: 12.5}}, range: [data.rows - 0.5, -0.5], tickvals: ticks, ticktext: ticks.map(r => data.labels[r])}};
}

// Where the map is zoomed, the part that is shown goes along with whoever walks out of it.
function follow(S) {
  const axes = S.host._fullLayout, changes = {};
  for (const [name, at] of [['xaxis', S.sel[1]], ['yaxis', S.sel[0]]]) {
    const [from, to] = axes[name].range, low = Math.min(from, to), high = Math.max(from, to);
    const by = at - 0.5 < low ? at - 0.5 - low : at + 0.5 > high ? at + 0.5 - high : 0;
    if (by) changes[`${name}.range`] = [from + by, to + by];
  }
  return changes;
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
    S.frame(resized(S));
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
    S.arrays = Object.fromEntries(data.matrices.map(name => [name, data[name] ? floats(data[name]) : null]));
    S.arraysOf = key;
    S.drawn = null;
  }
  host.style.minHeight = data.height + 'px';
  tableBehind(parentElement, data.label, () => behindRows(S));
  const run = ++S.run, Plotly = (S.Plotly = await loadPlotly(data.lib));
  if (run !== S.run || !host.isConnected) return;

  S.frame = (more = {}) => Plotly.relayout(host, {...more, ...moved(S, themeOf(host))});
  S.tip = () => { if (S.walking && S.sel && document.activeElement === host) Plotly.Fx.hover(host, {xval: S.sel[1], yval: S.sel[0]}, 'xy'); };
  S.move = sel => { S.sel = sel; live.textContent = cellWords(S, sel[0], sel[1], ', '); return S.frame(S.walking ? follow(S) : {}).then(S.tip); };
  S.pick = sel => { S.sent.push(JSON.stringify(sel)); S.trigger('cell', {row: sel[0], expert: sel[1]}); return S.move(sel); };
  S.draw = async () => {
    const theme = themeOf(host), narrow = host.offsetWidth < 560, before = cellSize(S);
    await Plotly.react(host, traces(S, theme, narrow), layoutOf(S, theme, narrow), plotConfig(Plotly, S.data.filename));
    // Sizes in pixels were those of the drawing before, or a guess; a guess that holds needs no second drawing.
    if (cellSize(S).some((size, i) => Math.abs(size / before[i] - 1) > 0.02)) await S.frame(resized(S));
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
  return () => ended(S);
}
