"""The pages in a real browser without a screen: skipped where there is no chromium."""
import json
import re
import shutil
import subprocess

import pytest

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='needs chromium')
COUNTS = [200, 110, 90, 30, 9, 2]
NAMES = ['<script>alert(1)</script>', '"><img src=x onerror=alert(2)>', '猫' * 60, 'a' * 200, 'e', 'f']
FRAME = '''<!DOCTYPE html><meta charset="utf-8"><title></title>
<script>onmessage = (event) => { document.title = `probe ${JSON.stringify(event.data)} end`; };</script>
<iframe src="probed.html" width="400" height="900" style="border: 0"></iframe>'''  # a window is never that narrow
PROBE = '''
addEventListener('load', () => {
const heads = [...document.querySelectorAll('table.sortable thead th')];
const lines = () => [...document.querySelectorAll('table.sortable tbody tr')].map(
  (row) => [...row.cells].map((cell) => cell.textContent));
const images = heads.findIndex((head) => head.textContent === 'training images');
const before = lines();
heads[images].firstChild.click();
const up = lines().map((line) => Number(line[images]));
heads[images].firstChild.click();
const down = lines().map((line) => Number(line[images]));
const found = {
  before, up, down, sorted: heads[images].ariaSort, width: innerWidth, wide: document.documentElement.scrollWidth,
  pictures: [...document.images].map((image) => [image.complete, image.naturalWidth]),
};
parent.postMessage(found, '*');
});
'''


def browse(path, tmp_path):
    """The page's document after its scripts, and what the console said."""
    done = subprocess.run(
        [CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', '--enable-logging=stderr', '--v=0', '--dump-dom',
         '--virtual-time-budget=10000', f'--user-data-dir={tmp_path / "profile"}', path.as_uri()],
        capture_output=True, text=True, encoding='utf-8', timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if ':CONSOLE' in line]


def probe(path, tmp_path):
    """Clicks, sizes and texts, as a script on the page sees them; its policy would forbid that script."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', '', path.read_text(encoding='utf-8'))
    text = text.replace('</body>', f'<script>{PROBE}</script></body>')
    path.with_name('probed.html').write_text(text, encoding='utf-8')
    path.with_name('frame.html').write_text(FRAME, encoding='utf-8')
    document, console = browse(path.with_name('frame.html'), tmp_path)
    assert not console
    said = re.search('<title>probe (.*) end</title>', document, re.S)[1]
    return json.loads(said.replace('&lt;', '<').replace('&gt;', '>').replace('&amp;', '&'))


def check(path, tmp_path, classes, pictures):
    document, console = browse(path, tmp_path)
    assert not console  # no error, and nothing that the policy refused: no request, no foreign script
    assert document.count('<button>') >= 5  # our own script ran
    found = probe(path, tmp_path)
    assert [line[0] for line in sorted(found['before'], key=lambda line: int(line[1]))] == classes
    assert found['up'] == sorted(found['up']) and found['down'] == found['up'][::-1] and found['sorted'] == 'descending'
    assert found['width'] == 400 and found['wide'] <= 400
    assert len(found['pictures']) == pictures
    assert all(complete and width >= 800 for complete, width in found['pictures'])


def test_report(write_run, tmp_path):
    folder = tmp_path / ('long' * 30)
    folder.mkdir()
    (folder / 'config.json').touch()
    (folder / 'args.yaml').touch()
    write_run(folder, COUNTS, NAMES, figures=True, data_dir='/' + 'd' * 300)
    check(folder / 'report.html', tmp_path, NAMES, 5)


def test_comparison(write_run, tmp_path):
    from timm_ltkd.report.compare import compare_runs, read_run, write_comparison
    runs = [write_run(tmp_path / (20 * name), COUNTS, NAMES, kd=name) for name in ('kd', 'bkd')]
    write_comparison(tmp_path / 'out', compare_runs([read_run(run) for run in runs]))
    check(tmp_path / 'out' / 'compare.html', tmp_path, NAMES, 3)
