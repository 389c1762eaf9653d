// Lines and points whose marks can be clicked: a loss curve, an expert over batches.

const DASH = {quiet: 'dash', safe: 'dot', unsafe: 'dash', ...Object.fromEntries(['solid', 'dash', 'dot', 'dashdot', 'longdash', 'longdashdot', '8px,3px', '2px,5px'].map((d, i) => [`series${i}`, d]))};

// A noise floor is a grey box per batch, so that a missing one leaves a gap and nothing is drawn between batches.
function bandOf(t, theme) {
  const ground = theme.dark ? 'rgba(255,255,255,.11)' : 'rgba(0,0,0,.085)';
  return {type: 'bar', name: t.name, x: t.x, y: t.y.map(v => v == null ? null : t.mirrored ? 2 * v : v), base: t.y.map(v => v == null || !t.mirrored ? 0 : -v),
    width: 0.86, hoverinfo: 'skip', showlegend: !!t.name, marker: {color: ground, line: {width: 0}}};
}

function traceOf(t, theme, many) {
  if (t.mode === 'band') return bandOf(t, theme);
  const color = theme.roles[t.role];
  return {type: t.x.length > many ? 'scattergl' : 'scatter', name: t.name, mode: t.mode, x: t.x, y: t.y, text: t.hover, meta: t.refs,
    hovertemplate: t.hover ? '%{text}<extra></extra>' : undefined, hoverinfo: t.hover ? undefined : 'skip', showlegend: !!t.name,
    ...(t.low ? {error_x: {type: 'data', symmetric: false, array: t.x.map((v, i) => t.high[i] - v), arrayminus: t.x.map((v, i) => v - t.low[i]),
      color, thickness: 1.6, width: 5}} : {}),
    line: {color, width: t.role === 'floor' ? 1.2 : t.mode.includes('markers') ? 1.4 : 1.8, dash: t.solid ? 'solid' : DASH[t.role] ?? 'solid'},
    marker: {color, symbol: t.symbol ?? 'circle', size: t.size ?? 6, line: {color: theme.background, width: 0.8}}};
}

function ring(S, theme) {
  if (S.data.sel == null) return [];
  const xs = [], ys = [];
  for (const t of S.data.traces) (t.refs ?? []).forEach((ref, i) => { if (ref === S.data.sel && t.y[i] != null) { xs.push(t.x[i]); ys.push(t.y[i]); } });
  return xs.length ? [{type: 'scatter', mode: 'markers', x: xs, y: ys, hoverinfo: 'skip', showlegend: false,
    marker: {symbol: 'circle-open', size: 14, color: theme.mark, line: {width: 2, color: theme.mark}}}] : [];
}

function layoutOf(S, theme, narrow) {
  const {data} = S, base = baseLayout(theme, data.height, narrow);
  const xs = data.traces.flatMap(t => t.x), few = xs.length && Math.max(...xs) - Math.min(...xs) < 12;  // else '1' twice
  const axis = {tickfont: {color: theme.text, size: 11.5}, gridcolor: theme.grid, zeroline: false, linecolor: theme.border, ticks: '', automargin: true, ticklabeloverflow: 'allow'};
  return {...base, uirevision: data.key, clickmode: 'event', legend: {orientation: 'h', x: 0, y: 1.02, yanchor: 'bottom', font: {size: 12}, bgcolor: 'rgba(0,0,0,0)'},
    margin: {...base.margin, t: 34},
    xaxis: {...axis, title: {text: data.x_title, font: {size: 12.5}}, showgrid: !!data.x_range,
      ...(data.x_whole ? {tickformat: ',d', ...(few ? {dtick: 1} : {})} : {}), ...(data.x_range ? {range: data.x_range} : {})},
    yaxis: {...axis, title: {text: data.y_title, font: {size: 12.5}}, rangemode: data.from_zero ? 'tozero' : 'normal',
      ...(data.y_ticks?.length ? {tickvals: data.y_ticks.map(t => t[0]), ticktext: data.y_ticks.map(t => narrow ? t[1].replace(/(.{12,}?) /, '$1<br>') : t[1]), range: [Math.min(...data.y_ticks.map(t => t[0])) - 0.6, Math.max(...data.y_ticks.map(t => t[0])) + 0.6], showgrid: false, fixedrange: true} : {}),
      ...(data.zero ? {zeroline: true, zerolinecolor: theme.roles.quiet, zerolinewidth: 1} : {})}};
}

// Rows of the table behind: a column per line where every line has its x once, else a row per point.
function behindRows(data) {
  const traces = data.traces.filter(t => t.x.length), titled = t => t.name || data.y_title;
  const place = y => data.y_ticks?.find(t => t[0] === y)?.[1] ?? said(y);
  if (!data.y_ticks?.length && traces.every(t => !t.low && new Set(t.x).size === t.x.length)) {
    const at = new Map();
    traces.forEach((t, i) => t.x.forEach((x, k) => at.set(x, Object.assign(at.get(x) ?? {}, {[i]: t.y[k]}))));
    const rows = [...at].sort((a, b) => a[0] - b[0]).map(([x, row]) => [said(x), ...traces.map((_, i) => said(row[i]))]);
    return {head: [data.x_title, ...traces.map(titled)], rows};
  }
  const ranged = traces.some(t => t.low);
  const rows = traces.flatMap(t => t.x.map((x, i) => [titled(t), said(x), place(t.y[i]), ...(ranged ? [said(t.low?.[i]), said(t.high?.[i])] : [])]));
  return {head: ['', data.x_title, data.y_title || 'row', ...(ranged ? ['from', 'to'] : [])], rows};
}

export default async function ({data, parentElement, setTriggerValue}) {
  const host = parentElement.querySelector('.rp-plot');
  const S = (host.__rp ??= {run: 0, host, walk: walkFrom()});
  S.data = data;
  S.walk.shown(data.sel);
  S.trigger = setTriggerValue;
  host.setAttribute('aria-label', data.label);
  host.dataset.key = data.key;
  host.style.minHeight = data.height + 'px';
  tableBehind(parentElement, data.label, data.behind ? () => behindRows(S.data) : null);
  const run = ++S.run, Plotly = await loadPlotly(data.lib);
  if (run !== S.run || !host.isConnected) return;
  if (S.Plotly && S.Plotly !== Plotly) { S.Plotly.purge(host); S.clicks = false; }  // there are too many points now
  S.Plotly = Plotly;
  S.draw = () => {
    const theme = themeOf(host), narrow = host.offsetWidth < 560;
    return Plotly.react(host, [...S.data.traces.map(t => traceOf(t, theme, S.data.many)), ...ring(S, theme)], layoutOf(S, theme, narrow), plotConfig(Plotly, S.data.filename));
  };
  await S.draw();
  if (run !== S.run) return;
  S.pick = ref => { S.walk.ask(ref); S.trigger('point', {ref}); };
  S.step = by => {
    const refs = [...new Set(S.data.traces.flatMap(t => t.refs ?? []))];  // each once, whatever trace it is in
    if (!refs.length) return;
    const at = refs.indexOf(S.walk.place());
    S.pick(refs[at < 0 ? 0 : Math.min(refs.length - 1, Math.max(0, at + by))]);
  };
  if (!S.clicks) {
    S.clicks = true;
    host.on('plotly_click', event => {
      const point = event.points?.find(p => p.data.meta);
      if (point) S.pick(point.data.meta[point.pointIndex]);
    });
  }
  if (!S.bound) {
    S.bound = true;
    host.addEventListener('keydown', event => {
      const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
      if (!by || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      event.stopPropagation();
      S.step(by);
    });
    watch(host, S);
  }
  host.dataset.title = data.label;
  host.dataset.points = String(Math.max(0, ...data.traces.map(t => t.x.length)));
  host.dataset.sel = data.sel ?? '';
  return () => ended(S);
}
