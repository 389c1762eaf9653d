// The samples of a batch in their order. A text that was not asked for is not in the page at all: what is blurred is a
// stand-in of its length, so neither the eye, nor a copy, nor the browser's search, nor a screen reader gets at it.
// Every text is set as text, never as markup.

const make = (tag, className, text) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text != null) made.textContent = text;
  return made;
};

function marked(text, words) {
  const whole = make('p', 'rp-sample-text');
  if (!words.length) { whole.textContent = text; return whole; }
  words = words.map(word => word.toLowerCase());
  const low = text.toLowerCase(), same = low.length === text.length;
  let at = 0;
  while (same && at < text.length) {
    const next = words.map(w => [low.indexOf(w, at), w]).filter(([i]) => i >= 0).sort((a, b) => a[0] - b[0] || b[1].length - a[1].length)[0];
    if (!next) break;
    whole.append(text.slice(at, next[0]), make('mark', '', text.slice(next[0], next[0] + next[1].length)));
    at = next[0] + next[1].length;
  }
  whole.append(text.slice(at));
  return whole;
}

function hidden(row, ask) {
  const line = make('div', 'rp-sample-hidden'), blur = make('span', 'rp-blur');
  blur.setAttribute('aria-hidden', 'true');
  for (let left = Math.min(row.length, 160), n = 0; left > 0; n++) {
    const word = make('i');
    word.style.width = `${3 + (row.i * 7 + n * 5) % 8}ch`;
    left -= 4 + (row.i * 7 + n * 5) % 8;
    blur.append(word);
  }
  const show = make('button', '', 'Show text');
  show.type = 'button';
  show.setAttribute('aria-label', `Show the text of sample ${row.i}`);
  show.onclick = () => ask(row.i);
  line.append(make('span', 'rp-unseen', 'Text hidden.'), blur, show);
  return line;
}

function rowOf(row, data, send) {
  const item = make('li'), head = make('div', 'rp-sample'), link = make('a', '', `Sample ${row.i}`);
  link.href = row.href;
  link.onclick = event => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    send('open', row.i);
  };
  if (row.i === data.sel) { item.className = 'rp-selected'; link.setAttribute('aria-current', 'true'); }
  const figures = make('span', 'rp-sample-figures');
  for (const [name, value] of row.figures) {
    const one = make('span');
    one.append(make('small', '', name), ' ', value);
    figures.append(one);
  }
  head.append(link, make('span', `rp-label rp-label-${row.label}`, row.label), figures, make('small', 'rp-sample-more', row.more));
  for (const [kind, said] of row.flags) head.append(make('span', `rp-chip rp-chip-${kind}`, said));
  item.append(head, row.text == null ? hidden(row, i => send('reveal', i)) : marked(row.text, data.words));
  return item;
}

export default function ({data, parentElement, setTriggerValue}) {
  const host = parentElement.querySelector('.rp-samples'), focused = document.activeElement?.getAttribute?.('aria-label');
  const list = make('ol');
  list.append(...data.rows.map(row => rowOf(row, data, setTriggerValue)));
  host.setAttribute('aria-label', data.label);
  host.replaceChildren(list);
  if (focused?.startsWith('Show the text of') && document.activeElement === document.body) {  // its button is gone: stay at its row
    list.querySelectorAll('a')[data.rows.findIndex(row => focused.endsWith(` ${row.i}`))]?.focus();
  }
}
