// Walking through batches or steps: by a button, by itself and by the arrow keys. Where a key means something already (a slider, a
// list of choices, a heatmap, a field), it keeps that meaning.

const OTHERS = 'input, textarea, select, [role=slider], [role=radio], [role=radiogroup], [role=tab], [role=menu], [role=listbox], ' +
  '[role=combobox], [contenteditable=true], .rp-plot, .rp-table, .rp-share, .rp-samples';
const PAUSE = 900;

export default function ({data, parentElement, setTriggerValue}) {
  const host = parentElement.querySelector('.rp-walk'), [back, on, play] = host.querySelectorAll('button');
  const S = (host.__rp ??= {playing: false});
  if (S.data?.of !== data.of) S.walk = walkFrom();
  S.data = data;
  S.send = setTriggerValue;
  S.walk.shown(data.at);
  const show = () => {
    play.textContent = S.playing ? '❚❚ Pause' : '▶ Play';
    play.setAttribute('aria-pressed', String(S.playing));
    play.title = `${S.playing ? 'Stop' : `Show one ${S.data.noun} after the other`}. The arrow keys walk too.`;
    play.disabled = S.data.last <= S.data.first;
    back.disabled = S.walk.place() <= S.data.first;
    on.disabled = S.walk.place() >= S.data.last;
  };
  S.go = by => {
    const target = Math.max(S.data.first, Math.min(S.data.last, S.walk.place() + by));
    if (target === S.walk.place()) return;
    S.walk.ask(target);
    S.send('to', target);
    show();
  };
  S.stop = () => { S.playing = false; clearTimeout(S.timer); show(); };
  const next = () => {
    clearTimeout(S.timer);
    if (!S.playing) return;
    if (S.data.at >= S.data.last) { S.stop(); return; }
    S.timer = setTimeout(() => { if (document.hidden) next(); else S.go(1); }, PAUSE);
  };
  play.onclick = () => {
    if (S.playing) { S.stop(); return; }
    S.playing = true;
    show();
    if (S.data.at >= S.data.last) S.go(S.data.first - S.data.last); else S.go(1);
  };
  back.onclick = () => { S.stop(); S.go(-1); };
  on.onclick = () => { S.stop(); S.go(1); };
  show();
  next();
  const keys = event => {
    const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (!by || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || event.target.closest?.(OTHERS)) return;
    event.preventDefault();
    S.stop();
    S.go(by);
  };
  // The browser's own Back and Forward: the address is there at once, what Python shows for it comes later.
  const passed = () => {
    const at = new URLSearchParams(location.search).get(S.data.noun);
    if (/^\d{1,9}$/.test(at ?? '')) S.walk.shown(Number(at));
  };
  document.removeEventListener('keydown', S.keys);
  window.removeEventListener('popstate', S.passed);
  Object.assign(S, {keys, passed});
  document.addEventListener('keydown', keys);
  window.addEventListener('popstate', passed);
  // Also called when the data changed again before this call was done: then a newer one has taken over.
  return () => {
    if (host.isConnected) return;
    clearTimeout(S.timer);
    document.removeEventListener('keydown', keys);
    window.removeEventListener('popstate', passed);
  };
}
