// A table of links. Every text is set as text, never as markup. A plain click stays in the session; the browser's own
// gestures (new tab, copy address) work because each row's first cell is a real link.

const COLLATE = new Intl.Collator(undefined, {numeric: true});

function cell(column, value) {
  const td = document.createElement('td');
  td.className = `rp-${column.align} ${column.minor ? 'rp-minor' : ''} rp-kind-${column.kind}`;
  const text = value?.t ?? '';
  if (column.kind === 'status') {
    const chip = document.createElement('span');
    chip.className = `rp-chip rp-chip-${value.v}`;
    chip.textContent = text;
    td.append(chip);
  } else if (column.kind === 'label') {
    const chip = document.createElement('span');
    chip.className = `rp-label rp-label-${value.v}`;
    chip.textContent = text;
    td.append(chip);
  } else if (column.kind === 'bar') {
    const track = document.createElement('span'), bar = document.createElement('span'), words = document.createElement('span');
    track.className = 'rp-track';
    const part = Math.max(-1, Math.min(1, (value.v ?? 0) / (column.max || 1)));
    bar.className = part < 0 ? 'rp-bar rp-bar-safe' : 'rp-bar rp-bar-unsafe';
    bar.style.width = `${Math.abs(part) * 50}%`;
    bar.style[part < 0 ? 'right' : 'left'] = '50%';
    track.append(bar);
    words.textContent = text;
    td.append(words, track);
  } else if (column.kind === 'part') {
    const track = document.createElement('span'), bar = document.createElement('span'), words = document.createElement('span');
    track.className = 'rp-track rp-track-part';
    bar.className = 'rp-bar rp-bar-part';
    bar.style.width = `${Math.max(0, Math.min(1, value.v ?? 0)) * 100}%`;
    track.append(bar);
    words.textContent = text;
    td.append(words, track);
  } else if (column.kind === 'whisker') {
    const track = document.createElement('span'), dot = document.createElement('span'), words = document.createElement('span');
    const at = v => 50 + 50 * Math.max(-1, Math.min(1, v / (column.max || 1)));
    track.className = 'rp-track rp-track-whisker';
    if (value.e?.every(Number.isFinite)) {
      const line = document.createElement('span');
      line.className = 'rp-whisker';
      line.style.left = `${at(value.e[0])}%`;
      line.style.width = `${at(value.e[1]) - at(value.e[0])}%`;
      track.append(line);
    }
    if (Number.isFinite(value.v)) {
      dot.className = value.v < 0 ? 'rp-at rp-bar-safe' : 'rp-at rp-bar-unsafe';
      dot.style.left = `${at(value.v)}%`;
      track.append(dot);
    }
    words.textContent = text;
    td.append(words, track);
  } else td.textContent = text;
  if (value?.h) td.title = value.h;
  return td;
}

// A row's checkbox. What is ticked stays while the list is filtered, ordered and paged; Python clears it by a new `run`.
function tickCell(S, row, changed) {
  const td = document.createElement('td'), box = document.createElement('input');
  td.className = 'rp-tick';
  box.type = 'checkbox';
  box.checked = S.ticked.has(row.id);
  box.disabled = row.tick === false;
  box.setAttribute('aria-label', `Compare ${Object.values(row.cells)[0]?.t ?? row.id}`);
  if (box.disabled) td.title = 'Only what has finished can be compared.';
  td.onclick = event => event.stopPropagation();
  box.onchange = () => { S.ticked[box.checked ? 'add' : 'delete'](row.id); changed(); };
  td.append(box);
  return td;
}

function ordered(rows, sort) {
  if (!sort) return rows;
  const value = row => row.cells[sort.key]?.v ?? row.cells[sort.key]?.t;
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x == null || y == null) return (x == null) - (y == null);
    return sort.sign * (typeof x === 'number' && typeof y === 'number' ? x - y : COLLATE.compare(String(x), String(y)));
  };
  return rows.map((row, i) => [row, i]).sort((a, b) => compare(a[0], b[0]) || a[1] - b[1]).map(pair => pair[0]);
}

export default function ({data, parentElement, setStateValue, setTriggerValue}) {
  const host = parentElement.querySelector('.rp-table');
  const S = (host.__rp ??= {sort: null});
  if (data.ticks && S.tickRun !== data.ticks.run) { S.tickRun = data.ticks.run; S.ticked = new Set(data.ticks.ids); }
  const draw = () => {
    const table = document.createElement('table'), head = table.createTHead().insertRow(), body = table.createTBody();
    const caption = table.createCaption();
    caption.textContent = data.label;
    if (data.ticks) {
      const th = document.createElement('th'), said = document.createElement('span');
      said.className = 'rp-unseen';
      said.textContent = 'Compare';
      th.scope = 'col';
      th.className = 'rp-tick';
      th.append(said);
      head.append(th);
    }
    for (const column of data.columns) {
      const th = document.createElement('th');
      th.scope = 'col';
      th.className = `rp-${column.align} ${column.minor ? 'rp-minor' : ''}`;
      const button = document.createElement('button');
      if (data.sort != null) {  // the server sorts
        const place = column.sort.findIndex(order => order[0] === data.sort), next = column.sort[(place + 1) % column.sort.length];
        const arrow = {ascending: ' ↑', descending: ' ↓'}[column.sort[place]?.[1]] ?? '';
        button.type = 'button';
        button.textContent = column.label + arrow;
        button.disabled = !next;
        const way = column.sort[place]?.[1];
        if (next) th.setAttribute('aria-sort', way === 'by size' ? 'other' : way ?? 'none');
        button.onclick = () => { S.focus = data.columns.indexOf(column); setTriggerValue('sort', next[0]); };
        th.append(button);
        head.append(th);
        continue;
      }
      const active = S.sort?.key === column.key;
      button.type = 'button';
      button.textContent = column.label + (active ? (S.sort.sign > 0 ? ' ↑' : ' ↓') : '');
      th.setAttribute('aria-sort', active ? (S.sort.sign > 0 ? 'ascending' : 'descending') : 'none');
      button.onclick = () => { S.sort = {key: column.key, sign: active ? -S.sort.sign : 1}; draw(); host.querySelectorAll('th button')[data.columns.indexOf(column)].focus(); };
      th.append(button);
      head.append(th);
    }
    for (const row of data.sort != null ? data.rows : ordered(data.rows, S.sort)) {
      const tr = body.insertRow();
      if (row.id === data.sel) { tr.className = 'rp-selected'; tr.setAttribute('aria-current', 'true'); }
      if (data.ticks) tr.append(tickCell(S, row, () => setStateValue('ticked', [...S.ticked])));
      data.columns.forEach((column, i) => {
        const td = cell(column, row.cells[column.key]);
        if (i === 0 && row.href) {
          const a = document.createElement('a');
          a.href = row.href;
          a.append(...td.childNodes);
          td.append(a);
        }
        tr.append(td);
      });
      if (!row.href) continue;
      tr.classList.add('rp-opens');
      tr.onclick = event => {
        if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
        event.preventDefault();
        setTriggerValue('open', row.id);
      };
    }
    host.replaceChildren(table);
  };
  draw();
  if (S.focus != null) { host.querySelectorAll('th button')[S.focus]?.focus(); S.focus = null; }
  host.style.maxHeight = data.height ? data.height + 'px' : '';
}
