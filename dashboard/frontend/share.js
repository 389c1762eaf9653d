// Copy buttons for a figure's link and calls, and its picture. The link is read from the address at the moment it is
// asked for, so that it always names what is shown.

async function toClipboard(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement('textarea');  // over plain http elsewhere than localhost
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand('copy');
  area.remove();
}

function button(name, act, said) {
  const made = document.createElement('button');
  made.type = 'button';
  made.textContent = name;
  made.onclick = async () => {
    try { said.textContent = await act(); } catch (error) { said.textContent = `That did not work: ${error.message}`; }
  };
  return made;
}

export default function ({data, parentElement}) {
  const host = parentElement.querySelector('.rp-share'), said = document.createElement('p');
  said.className = 'rp-share-said';
  said.setAttribute('role', 'status');
  const rows = [['Copy link', null], ...data.texts].map(([name, text]) => {
    const row = document.createElement('div'), shown = document.createElement('pre');
    shown.textContent = text ?? location.href;
    shown.tabIndex = 0;
    row.append(button(name, async () => {
      await toClipboard(text ?? location.href);
      return `${name.replace('Copy', 'Copied')}.`;
    }, said), shown);
    return row;
  });
  if (data.plot) {
    const row = document.createElement('div');
    row.append(button('Save as PNG', async () => {
      const plot = [...document.querySelectorAll('.rp-plot')].find(one => one.dataset.key === data.plot);
      if (!plot?.__rp?.Plotly) throw new Error('the figure is not drawn yet');
      await savePicture(plot.__rp.Plotly, plot, plot.__rp.data.filename);
      return 'Saved as PNG.';
    }, said));
    rows.push(row);
  }
  host.replaceChildren(...rows, said);
}
