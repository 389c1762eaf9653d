// Walking through batches by itself and by the arrow keys. Where a key means something already (a slider, a list of
// choices, a heatmap, a field), it keeps that meaning.

const OTHERS = 'input, textarea, select, [role=slider], [role=radio], [role=radiogroup], [role=tab], [role=menu], [role=listbox], ' +
  '[role=combobox], [contenteditable=true], .rp-plot, .rp-table, .rp-share, .rp-samples';
const PAUSE = 900;

export default function ({data, parentElement, setTriggerValue}) {
  const button = parentElement.querySelector('button');
  const S = (button.__rp ??= {playing: false, wanted: null});
  S.data = data;
  S.send = setTriggerValue;
  if (S.wanted === data.at || S.of !== data.of) S.wanted = null;
  S.of = data.of;
  const show = () => {
    button.textContent = S.playing ? '❚❚ Pause' : '▶ Play';
    button.setAttribute('aria-pressed', String(S.playing));
    button.title = `${S.playing ? 'Stop' : 'Show one batch after the other'}. The arrow keys walk through the batches too.`;
    button.disabled = S.data.last < 1;
  };
  S.go = by => {
    const target = Math.max(0, Math.min(S.data.last, (S.wanted ?? S.data.at) + by));
    if (target === (S.wanted ?? S.data.at)) return false;
    S.wanted = target;
    S.send('to', target);
    return true;
  };
  S.stop = () => { S.playing = false; clearTimeout(S.timer); show(); };
  const next = () => {
    clearTimeout(S.timer);
    if (!S.playing) return;
    if (S.data.at >= S.data.last) { S.stop(); return; }
    S.timer = setTimeout(() => { if (document.hidden) next(); else S.go(1); }, PAUSE);
  };
  button.onclick = () => {
    if (S.playing) { S.stop(); return; }
    S.playing = true;
    show();
    if (S.data.at >= S.data.last) S.go(-S.data.last); else S.go(1);
  };
  show();
  next();
  const keys = event => {
    const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (!by || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || event.target.closest?.(OTHERS)) return;
    event.preventDefault();
    S.stop();
    S.go(by);
  };
  document.removeEventListener('keydown', S.keys);
  S.keys = keys;
  document.addEventListener('keydown', keys);
  return () => { clearTimeout(S.timer); document.removeEventListener('keydown', S.keys); };
}
