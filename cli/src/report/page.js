'use strict';
// Sorts and searches the page's tables. Without it they are whole, in the report's order.
function makeSortable(table, body, rows, head, column) {
  const button = document.createElement('button');
  button.type = 'button';
  button.textContent = head.textContent;
  head.replaceChildren(button);
  const isNumber = head.classList.contains('number');
  const key = row => row.cells[column].dataset.sort ?? row.cells[column].textContent;
  const number = row => key(row) === '' ? -1 : Number(key(row));
  const compare = isNumber
    ? (one, other) => number(one) - number(other)
    : (one, other) => key(one).localeCompare(key(other), undefined, { numeric: true });
  button.addEventListener('click', () => {
    const before = head.getAttribute('aria-sort');
    // The greatest number first, the first letter first; a second press turns it round.
    const isRising = before ? before === 'descending' : !isNumber;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', isRising ? 'ascending' : 'descending');
    body.append(...[...rows].sort((one, other) => isRising ? compare(one, other) : compare(other, one)));
  });
}

function makeSearchable(box, table, rows) {
  const line = document.createElement('p'), field = document.createElement('input'), told = document.createElement('span');
  line.className = 'search';
  field.type = 'search';
  field.placeholder = 'Search';
  field.setAttribute('aria-label', 'Search in: ' + table.caption.textContent);
  told.setAttribute('role', 'status');
  field.addEventListener('input', () => {
    const words = field.value.toLocaleLowerCase().split(' ').filter(word => word);
    let found = 0;
    for (const row of rows) {
      const text = row.textContent.toLocaleLowerCase();
      row.hidden = !words.every(word => text.includes(word));
      found += row.hidden ? 0 : 1;
    }
    told.textContent = words.length ? found + ' of ' + rows.length : '';
  });
  line.append(field, told);
  box.before(line);
}

for (const box of document.querySelectorAll('.scroll')) {
  const table = box.querySelector('table'), body = table.tBodies[0], rows = [...body.rows];
  if (rows.length === 1) continue;
  table.classList.add('live');
  [...table.tHead.rows[0].cells].forEach((head, column) => makeSortable(table, body, rows, head, column));
  if (rows.length > 5) makeSearchable(box, table, rows);
}

const folded = [...document.querySelectorAll('details')], all = document.querySelector('#details-heading');
if (all) {
  const button = document.createElement('button');
  button.type = 'button';
  button.textContent = 'Unfold all';
  button.addEventListener('click', () => {
    const isOpening = folded.some(part => !part.open);
    for (const part of folded) part.open = isOpening;
    button.textContent = isOpening ? 'Fold all' : 'Unfold all';
  });
  all.after(button);
}
