// What a report's page does when it is clicked: tables are sorted by a column.
for (const table of document.querySelectorAll('table.sortable')) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement('button');
    button.append(head.textContent);
    button.addEventListener('click', () => {
      const down = head.ariaSort === 'ascending';
      heads.forEach((other) => other.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      sort(table.tBodies[0], column, down ? -1 : 1);
    });
    head.replaceChildren(button);
  });
}

function sort(body, column, sign) {
  const words = new Intl.Collator('en', { numeric: true });
  const lines = [...body.rows].map((row) => {
    const text = row.cells[column].textContent;
    return { row, text, number: Number(text), absent: text === '-' };
  });
  const numbers = lines.every((line) => line.absent || (line.text.trim() && !Number.isNaN(line.number)));
  lines.sort((a, b) => a.absent - b.absent
    || sign * (numbers ? a.number - b.number : words.compare(a.text, b.text)));
  body.replaceChildren(...lines.map((line) => line.row));
}
