// The table behind a chart: what it shows, as rows and columns for those who do not see it or want the numbers. Built
// when it is opened, so that a chart of many points costs nothing more before.

const MOST_ROWS = 2000;

function tableOf(label, {head, rows}) {
  const table = document.createElement('table'), top = table.createTHead().insertRow(), body = table.createTBody();
  table.createCaption().textContent = label;
  for (const name of head) { const th = document.createElement('th'); th.scope = 'col'; th.textContent = name; top.append(th); }
  for (const row of rows.slice(0, MOST_ROWS)) {
    const tr = body.insertRow();
    row.forEach((value, i) => {
      const at = i ? tr.insertCell() : tr.appendChild(document.createElement('th'));
      if (!i) at.scope = 'row';
      at.textContent = value ?? '–';
    });
  }
  return table;
}

// build: () => {head: [text], rows: [[text or null]]}, of the data as it is when the table is opened.
function tableBehind(parentElement, label, build) {
  const box = parentElement.querySelector('.rp-behind');
  if (!box) return;
  box.hidden = !build;
  if (!build) return;
  const place = box.querySelector('div');
  const fill = () => {
    if (!box.open) return place.replaceChildren();
    const made = build(), note = document.createElement('p');
    note.textContent = made.rows.length > MOST_ROWS ? `The first ${MOST_ROWS} of ${made.rows.length} rows.` : '';
    place.replaceChildren(tableOf(label, made), note);
    place.setAttribute('aria-label', `Table: ${label}`);
  };
  box.ontoggle = fill;
  if (box.open) fill();
}

const said = (value, digits = 4) => value == null || !Number.isFinite(value) ? null
  : (Number.isInteger(value) ? String(value) : value.toFixed(digits)).replace('-', '−');
