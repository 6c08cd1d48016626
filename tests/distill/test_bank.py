"""The teacher bank: rows that are right or not there, exact answers, and refusals that say why."""
import errno
import json
import os
import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from timm_ltkd.distill import Output, RowLayout, TeacherBank, open_bank
from timm_ltkd.distill.bank import RowFile, rows
from timm_ltkd.errors import UserError

COUNT = 40


def rows_of(numbers, words=3, seed=0):
    rng = np.random.RandomState(seed)
    return rng.randint(0, 2 ** 32, (COUNT, words), dtype=np.uint32)[numbers]


@pytest.fixture
def make(tmp_path):
    """`make(words, salt)`: a table of 40 rows; the first call makes its files."""
    def open_file(words=3, salt=0):
        if not (tmp_path / 'rows.bin').exists():
            RowFile.make(tmp_path, COUNT, words)
        return RowFile(tmp_path, COUNT, words, salt=salt)
    return open_file


class TestRowFile:
    def test_what_was_written_is_there_and_nothing_else(self, make):
        numbers = np.array([7, 3, 8, 39, 9])
        make().write(numbers, rows_of(numbers))
        rows, there = make().read(np.arange(COUNT))
        assert np.flatnonzero(there).tolist() == [3, 7, 8, 9, 39]
        assert (rows[there] == rows_of(np.flatnonzero(there))).all()
        assert make().marked() == 5

    def test_a_table_that_is_open_sees_what_another_writes(self, make):
        first, second = make(), make()
        second.write(np.array([5]), rows_of([5]))
        assert first.read(np.array([5, 6]))[1].tolist() == [True, False]

    @pytest.mark.parametrize('at', range(0, 12, 5))
    @pytest.mark.parametrize('bit', [1, 128])
    def test_one_wrong_bit_is_a_row_that_is_not_there(self, make, tmp_path, at, bit):
        make().write(np.arange(3), rows_of(np.arange(3)))
        with open(tmp_path / 'rows.bin', 'r+b') as file:
            file.seek(12 + at)
            byte = file.read(1)[0]
            file.seek(12 + at)
            file.write(bytes([byte ^ bit]))
        assert make().read(np.arange(3))[1].tolist() == [True, False, True]

    def test_rows_that_were_torn_or_mixed_up_are_not_there(self, make, tmp_path):
        """Cut off by a crash, half zeros, in another's place, with the mark of another."""
        numbers = np.arange(6)
        make().write(numbers, rows_of(numbers))
        rows = np.fromfile(tmp_path / 'rows.bin', '<u4').reshape(COUNT, 3)
        marks = np.fromfile(tmp_path / 'marks.bin', '<u4')
        rows[1], rows[2] = rows[0], [*rows[2, :2], 0]
        marks[3], marks[10] = marks[4], marks[0]
        rows.tofile(tmp_path / 'rows.bin')
        marks.tofile(tmp_path / 'marks.bin')
        os.truncate(tmp_path / 'rows.bin', 5 * 12)
        assert make().read(np.arange(COUNT))[1].nonzero()[0].tolist() == [0, 4]
        assert (tmp_path / 'rows.bin').stat().st_size == COUNT * 12

    def test_signs_and_zeros(self, make):
        """Two signs that turn over cancel in a plain sum; a row of zeros is no empty row."""
        row, turned = np.zeros((1, 3), np.uint32), np.array([[2 ** 31, 2 ** 31, 0]], np.uint32)
        file, number = make(), np.array([4])
        assert file._checksums(number, row) != file._checksums(number, turned)
        file.write(number, row)
        assert file.read(np.array([4, 5]))[1].tolist() == [True, False]

    def test_checksums_tell_rows_apart(self, make):
        """Any one or two bits that turn over are seen, and so is any other number."""
        file, row = make(), rows_of([0])
        bits = [np.uint32(1 << bit) * np.eye(3, dtype=np.uint32)[word] for word in range(3) for bit in range(32)]
        turned = np.concatenate([row, *(row ^ bit for bit in bits), *(
            row ^ one ^ other for i, one in enumerate(bits) for other in bits[:i])])
        sums = file._checksums(np.zeros(len(turned), np.int64), turned)
        assert len(np.unique(sums)) == len(sums) == 1 + 96 + 96 * 95 // 2
        many = file._checksums(np.arange(100_000), np.zeros((100_000, 3), np.uint32))
        assert len(np.unique(many)) == 100_000

    def test_another_table_does_not_pass(self, make):
        make(salt=1).write(np.arange(3), rows_of(np.arange(3)))
        assert make(salt=1).read(np.arange(3))[1].all() and not make(salt=2).read(np.arange(3))[1].any()

    def test_a_table_of_another_size_is_refused(self, make):
        make(words=4)
        with pytest.raises(OSError, match='bytes'):
            make(words=3)

    def test_a_full_disk_leaves_what_was_written_before(self, make, monkeypatch):
        """A write that is cut short goes on; when nothing can be written any more, whole rows are there or not."""
        written, write_at, name = [], rows.write_at, 'timm_ltkd.distill.bank.rows.write_at'

        def write_little(handle, data, offset):
            if sum(written) >= 30:
                raise OSError(errno.ENOSPC, 'No space left on device')
            written.append(write_at(handle, bytes(data)[:7], offset))
            return written[-1]
        file = make()
        file.write(np.array([20]), rows_of([20]))
        monkeypatch.setattr(name, write_little)
        with pytest.raises(OSError, match='No space'):
            file.write(np.arange(5), rows_of(np.arange(5)))
        monkeypatch.undo()
        assert file.read(np.arange(COUNT))[1].nonzero()[0].tolist() == [20]
        monkeypatch.setattr(name, lambda handle, data, offset: write_at(handle, bytes(data)[:7], offset))
        file.write(np.arange(5), rows_of(np.arange(5)))
        assert (file.read(np.arange(5))[0] == rows_of(np.arange(5))).all() and file.read(np.arange(5))[1].all()

    def test_without_what_only_unix_has(self, make, monkeypatch):
        monkeypatch.delattr(os, 'pwrite', raising=False)
        file = make()
        file.write(np.array([3, 4, 9]), rows_of([3, 4, 9]))
        assert file.read(np.arange(COUNT))[1].nonzero()[0].tolist() == [3, 4, 9]

    def test_all_but(self, make, monkeypatch):
        monkeypatch.setattr('timm_ltkd.distill.bank.rows._AT_ONCE', 7)  # two rows at a time
        numbers, known = np.arange(1, 12), np.zeros(COUNT, bool)
        known[3:6] = True
        file = make()
        file.write(numbers, rows_of(numbers))
        parts = list(file.all_but(known))
        assert np.concatenate([part for part, _ in parts]).tolist() == [1, 2, *range(6, 12)]
        assert (np.concatenate([rows for _, rows in parts]) == rows_of([1, 2, *range(6, 12)])).all()
        assert max(len(part) for part, _ in parts) == 2


# ---- rows ------------------------------------------------------------------------------------------------------------

def said(batch=5, classes=7, features=0, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(batch, classes, generator=generator)
    return Output(logits.to(dtype), torch.randn(batch, features, generator=generator).to(dtype) if features else None)


def same(first, second):
    if not isinstance(first, Output):
        return type(first) is type(second) and all(map(same, first, second))
    return all(
        a is b is None or a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(first, second, strict=True))


class TestRowLayout:
    @pytest.mark.parametrize('what', [
        said(), said(features=4), said(dtype=torch.bfloat16), said(classes=8, features=3, dtype=torch.bfloat16),
        (said(), said(classes=9, features=2, seed=1))], ids=['logits', 'features', 'bf16', 'bf16 both', 'several'])
    def test_float32_comes_back_to_the_last_bit(self, what):
        layout = RowLayout.of(what)
        assert same(layout.unpack(layout.pack(what)), what)
        assert layout.pack(what).shape[1] == layout.words
        assert RowLayout.from_json(json.loads(json.dumps(layout.to_json()))) == layout

    def test_words(self):
        assert RowLayout.of(said(classes=100)).words == 100
        assert RowLayout.of(said(classes=100), 'float16').words == 50
        assert RowLayout.of(said(classes=7, features=5), 'float16').words == 4 + 3
        assert RowLayout.of(said(classes=100), top_k=10).words == 10 + 5 + 1
        assert RowLayout.of(said(classes=100), 'float16', top_k=9).words == 5 + 5 + 1
        assert RowLayout.of(said(classes=2 ** 15 + 1), top_k=10).words == 10 + 10 + 1

    def test_float16_rounds_and_nothing_becomes_infinite(self):
        what = Output(torch.tensor([[1., 1 / 3, 1e5, -1e5, 1e-9]]))
        back = RowLayout.of(what, 'float16').unpack(RowLayout.of(what, 'float16').pack(what)).logits
        assert back.dtype == torch.float32
        assert torch.equal(back, torch.tensor([[1., 0.333251953125, 65504, -65504, 0]]))
        wide = Output(what.logits.bfloat16())
        layout = RowLayout.of(wide, 'float16')
        assert layout.unpack(layout.pack(wide)).logits[0, 2:4].tolist() == [65536, -65536], 'the nearest that bf16 has'
        half = said(100, 100, dtype=torch.bfloat16)
        half = half._replace(logits=half.logits.masked_fill(half.logits.abs() < 2 ** -14, 0))
        layout = RowLayout.of(half, 'float16')
        assert same(layout.unpack(layout.pack(half)), half), 'bfloat16 has fewer digits'

    def test_top_k_keeps_the_largest_and_the_mass_of_the_rest(self):
        what = said(50, 20)
        layout = RowLayout.of(what, top_k=3)
        back = layout.unpack(layout.pack(what)).logits
        order = what.logits.argsort(dim=1, descending=True)
        before, after = (F.softmax(z.double(), dim=1).gather(1, order) for z in (what.logits, back))
        torch.testing.assert_close(after[:, :3], before[:, :3], rtol=1e-6, atol=0)
        rest = before[:, 3:].sum(dim=1, keepdim=True) / 17
        torch.testing.assert_close(after[:, 3:], rest.expand(-1, 17), rtol=1e-6, atol=0)
        assert torch.equal(back.gather(1, order[:, :3]), what.logits.gather(1, order[:, :3])), 'the logits themselves'

    def test_top_k_of_many_classes_and_in_half_precision(self):
        what = said(4, 40_000, dtype=torch.bfloat16)
        for dtype in ('float32', 'float16'):
            layout = RowLayout.of(what, dtype, top_k=5)
            back = layout.unpack(layout.pack(what)).logits
            values, classes = what.logits.float().topk(5, dim=1)
            assert back.dtype == torch.float32 and torch.equal(back.topk(5, dim=1).values, values)
            assert torch.equal(back.gather(1, classes), values)

    def test_features_are_returned_where_they_are_wanted(self):
        what = (said(features=3), said(features=2, seed=1))
        layout = RowLayout.of(what)
        first, second = layout.unpack(layout.pack(what), (False, True))
        assert first.features is None and torch.equal(second.features, what[1].features)

    def test_what_holds_what(self):
        bare, rich = RowLayout.of(said()), RowLayout.of(said(features=4))
        assert rich.holds(bare) and rich.holds(rich) and not bare.holds(rich)
        for other in (said(classes=8), said(dtype=torch.bfloat16), (said(),)):
            assert not rich.holds(RowLayout.of(other))
        assert not rich.holds(RowLayout.of(said(), 'float16')) and not rich.holds(RowLayout.of(said(), top_k=2))
        assert not rich.holds(RowLayout.of(said(features=5)))

    @pytest.mark.parametrize('k', [0, 7, 8])
    def test_not_as_many_as_there_are(self, k):
        with pytest.raises(UserError, match=f'the {k} largest of 7 logits'):
            RowLayout.of(said(), top_k=k)

    def test_an_unknown_dtype(self):
        with pytest.raises(UserError, match="not 'bfloat16'"):
            RowLayout.of(said(), 'bfloat16')


# ---- the bank --------------------------------------------------------------------------------------------------------

class Teacher:
    """Says of an image its pixels' sums, in what is asked of it, and notes how many images it is asked about."""

    def __init__(self, dtype=torch.float32):
        self.weights = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
        self.asked, self.layouts, self.dtype = [], [], dtype

    def __call__(self, images: torch.Tensor, needs_features: Sequence[bool]) -> Output:
        self.asked.append(len(images))
        self.layouts.append(images.is_contiguous(memory_format=torch.channels_last))
        values = images.flatten(1).double() @ self.weights.double()  # the same in batches of any size
        return Output(values.to(self.dtype), images.flatten(1) if needs_features[0] else None)


def images_of(views):
    return torch.randn(COUNT, 3, 2, 2, generator=torch.Generator().manual_seed(1))[views]


KEY = {'teacher': ['a'], 'view': {'hflip': 0.5, 'seed': None}, 'data': 'f' * 64}


@pytest.fixture
def bank(tmp_path):
    """`bank()`: the bank in a folder; with other options another."""
    def make(layout=RowLayout.of(Output(torch.zeros(1, 5))), key=KEY, folder='bank', at_once=4, count=COUNT):  # noqa: B008
        return open_bank(tmp_path / folder, key, layout, count=count, at_once=at_once)
    return make


class TestTeacherBank:
    def test_asks_only_about_what_is_not_known(self, bank):
        teacher, first = Teacher(), bank()
        online = Teacher()
        for start in (0, 8, 16):
            views = torch.arange(start, start + 8)
            assert same(first.ask(teacher, images_of(views), views), online(images_of(views), [False]))
        first.flush()
        teacher, second = Teacher(), bank()
        for views in (torch.arange(8), torch.arange(23, -1, -1), torch.arange(17, 33), torch.tensor([30, 2] * 4)):
            assert same(second.ask(teacher, images_of(views), views), online(images_of(views), [False]))
        assert teacher.asked == [12, 4], 'nine new ones and three known, four times the same new one'
        assert (second.shown, second.answered) == (56, 8 + 24 + 7 + 4)
        second.flush()
        assert bank().file.marked() == 24 + 9

    def test_what_is_asked_is_rounded_as_what_is_known(self, bank):
        layout = RowLayout.of(Output(torch.zeros(1, 5)), 'float16', top_k=2)
        views = torch.arange(8)
        fresh, first = [], bank(layout)
        for size in (8, 6):  # the second goes past the bank
            fresh.append(first.ask(Teacher(), images_of(views[:size]), views[:size]).logits)
        first.flush()
        known = bank(layout).ask(None, None, views).logits
        assert torch.equal(fresh[0], known) and torch.equal(fresh[1], known[:6])
        assert not torch.equal(known, Teacher()(images_of(views), [False]).logits)

    def test_a_batch_that_is_no_multiple_goes_past_the_bank(self, bank):
        teacher, views, first = Teacher(), torch.arange(7), bank()
        for _ in range(2):
            first.ask(teacher, images_of(views), views)
            first.flush()
        assert teacher.asked == [7, 7] and bank().file.marked() == 0

    def test_images_are_made_only_if_they_are_needed_and_are_the_teachers_of_a_pair(self, bank):
        first, views, made = bank(), torch.arange(8), []

        def make():
            made.append(1)
            return None, images_of(views)
        for _ in range(2):
            answer = first.ask(Teacher(), make, views)
            assert same(answer, Teacher()(images_of(views), [False]))
            first.flush()
        assert len(made) == 1

    @pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
    def test_some_of_a_batch_lie_in_memory_as_all_do(self, bank, layout):
        teacher, first, views = Teacher(), bank(), torch.arange(8)
        first.ask(teacher, images_of(views[:4]).contiguous(memory_format=layout), views[:4])
        first.flush()
        first.ask(teacher, images_of(views).contiguous(memory_format=layout), views)
        assert teacher.asked == [4, 4]
        assert teacher.layouts == [layout == torch.channels_last] * 2

    def test_known_and_new_rows_meet_where_the_batch_is(self, bank):
        """On any device: 'meta' is one that is no GPU."""
        first, teacher = bank(), Teacher()
        first.ask(teacher, images_of(torch.arange(4)), torch.arange(4))
        first.flush()
        there = TeacherBank(first.file, first.layout, [False], device='meta', at_once=4)
        teacher.weights = teacher.weights.to('meta')
        for count in (8, 4):  # the second is known
            views = torch.arange(count)
            rows = there.rows(teacher, images_of(views).to('meta'), views)
            assert rows.is_meta and rows.shape == (count, 5)
        assert teacher.asked == [4, 4]

    def test_features_for_a_run_without(self, bank):
        """A bank with features serves it, and grows whole rows while it does."""
        rich = RowLayout.of(Output(torch.zeros(1, 5), torch.zeros(1, 12)))
        views = torch.arange(8)
        bank(rich)
        plain, teacher = bank(), Teacher()
        assert plain.ask(teacher, images_of(views), views).features is None
        plain.flush()
        answer = bank(rich).ask(None, None, views)
        assert torch.equal(answer.features, images_of(views).flatten(1))
        bank(folder='plain')
        with pytest.raises(UserError, match='holds no features, and this run wants them'):
            bank(rich, folder='plain')

    def test_gradients_do_not_reach_the_teacher(self, bank):
        views = torch.arange(8)
        answer = bank().ask(Teacher(), images_of(views).requires_grad_(), views)
        assert not answer.logits.requires_grad
        with torch.inference_mode():
            words = bank().rows(Teacher(), images_of(views), views)
        assert words.dtype == torch.int32 and words.shape == (8, 5)

    def test_a_teacher_on_another_device_is_told_at_the_first_batch(self, bank):
        views = torch.arange(8)
        with pytest.raises(UserError, match="for batches on 'cpu' and its teacher answers on 'meta': open it with dev"):
            bank().ask(lambda *args: Output(torch.zeros(8, 5, device='meta')), images_of(views), views)

    def test_a_row_that_was_damaged_is_asked_again(self, bank, tmp_path):
        views, teacher = torch.arange(8), Teacher()
        first = bank()
        first.ask(teacher, images_of(views), views)
        first.flush()
        with open(tmp_path / 'bank/rows.bin', 'r+b') as file:
            file.write(b'\0' * 30)  # the first row and a half
        with open(tmp_path / 'bank/rows.bin', 'r+b') as file:
            file.truncate(7 * 20)
        again = bank()
        assert same(again.ask(teacher, images_of(views), views), teacher(images_of(views), [False]))
        assert teacher.asked[:2] == [8, 4] and (again.shown, again.answered) == (8, 5)
        again.flush()
        assert same(bank().ask(None, None, views), teacher(images_of(views), [False]))

    def test_a_full_disk_is_told_once_and_the_run_goes_on(self, bank, monkeypatch, log):
        def full(handle, data, offset):
            raise OSError(errno.ENOSPC, 'No space left on device')
        views, teacher, first = torch.arange(8), Teacher(), bank()
        monkeypatch.setattr('timm_ltkd.distill.bank.rows.write_at', full)
        for _ in range(3):
            assert same(first.ask(teacher, images_of(views), views), Teacher()(images_of(views), [False]))
            first.flush()
        assert teacher.asked == [8] * 3
        assert len(log) == 1 and 'cannot be written (No space left on device)' in log[0]

    def test_much_that_waits_is_written_before_the_epoch_ends(self, bank, monkeypatch):
        monkeypatch.setattr('timm_ltkd.distill.bank.bank._MOST_PENDING', 200)
        first = bank()
        for start, marked in ((0, 0), (8, 16), (16, 16), (24, 32)):  # 160 bytes each
            views = torch.arange(start, start + 8)
            first.ask(Teacher(), images_of(views), views)
            assert first.file.marked() == marked

    def test_rows_on_the_device(self, bank, tmp_path):
        """As it is on a GPU: loaded when it opens, but for damaged ones; filled by what is said; others' later."""
        other, views, online = bank(), torch.arange(12), Teacher()(images_of(torch.arange(COUNT)), [False])
        other.ask(Teacher(), images_of(views), views)
        other.flush()
        with open(tmp_path / 'bank/rows.bin', 'r+b') as file:
            file.write(b'damaged')
        teacher, table = Teacher(), TeacherBank(other.file, other.layout, [False], at_once=4, on_device=True)
        (tmp_path / 'bank/rows.bin').write_bytes(bytes(COUNT * 20))  # it looks there no more
        for views in (torch.arange(1, 9), torch.arange(8, 16), torch.arange(8)):
            assert torch.equal(table.ask(teacher, images_of(views), views).logits, online.logits[views])
        assert teacher.asked == [4, 4], '12 to 15, and 0 with three known ones'
        table.flush()
        other.ask(Teacher(), images_of(views + 20), views + 20)
        other.flush()
        table.flush()
        assert table._table.known.nonzero()[0].tolist() == [*range(16), *range(20, 28)]
        for views in (torch.arange(16), torch.arange(20, 28)):
            assert torch.equal(table.ask(None, None, views).logits, online.logits[views])
        assert bank().file.read(np.arange(16))[1].tolist() == [True] + [False] * 11 + [True] * 4

    @pytest.mark.parametrize('on_device', [False, True])
    def test_threads_share_it(self, bank, on_device):
        first, wrong = bank(), []
        first = TeacherBank(first.file, first.layout, [False], at_once=4, on_device=on_device)

        def work(seed):
            generator = torch.Generator().manual_seed(seed)
            for _ in range(20):
                views = torch.randint(COUNT, (8,), generator=generator)
                if not same(first.ask(Teacher(), images_of(views), views), Teacher()(images_of(views), [False])):
                    wrong.append(seed)
                first.flush()
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong and first.shown == 4 * 20 * 8 and first.file.marked() == COUNT


class TestFolder:
    def test_the_difference_is_named(self, bank):
        bank()
        for other, message in (
                ({'teacher': ['b']}, r'another teacher \(a there, b here\)'),
                ({'view': {'hflip': 0., 'seed': None}}, r'another view hflip \(0.5 there, 0.0 here\)'),
                ({'data': 'e' * 64}, r'another data \(ffffffffffff… there, eeeeeeeeeeee… here\)'),
                ({'new': 1}, r'another new \(None there, 1 here\)')):
            with pytest.raises(UserError, match=message) as error:
                bank(key=KEY | other)
            assert '\n' not in str(error.value) and 'name another folder' in str(error.value)

    def test_another_precision_is_refused(self, bank):
        bank()
        with pytest.raises(UserError, match='in float32 of float32, and .* in float32 of bfloat16 are asked for'):
            bank(RowLayout.of(Output(torch.zeros(1, 5, dtype=torch.bfloat16))))

    @pytest.mark.parametrize('count', [COUNT // 2, COUNT * 4])
    def test_another_number_of_rows_is_refused(self, bank, count):
        bank()
        with pytest.raises(UserError, match=rf'has {COUNT} rows .* this run {count}; name another folder'):
            bank(count=count)

    def test_made_or_not(self, tmp_path, bank, monkeypatch):
        bank(folder='a/b/c')
        assert sorted(path.name for path in (tmp_path / 'a/b/c').iterdir()) == [
            '.lock', 'bank.json', 'marks.bin', 'rows.bin']
        (tmp_path / 'empty').mkdir()
        bank(folder='empty')
        monkeypatch.setattr(json, 'dumps', lambda *args, dumps=json.dumps, **options: (
            dumps(*args, **options) if 'indent' not in options else full()))

        def full():
            raise OSError(errno.ENOSPC, 'No space left on device')
        with pytest.raises(UserError, match=r'of up to 0.0 MB cannot be made in .*No space left'):
            bank(folder='other')
        assert [path.name for path in (tmp_path / 'other').iterdir()] == ['.lock']
        monkeypatch.undo()
        bank(folder='other')

    def test_killed_while_it_was_made(self, tmp_path, bank):
        (tmp_path / 'bank').mkdir()
        for name in ('.lock', 'rows.bin', '.bank.json.abcd.tmp.json'):
            (tmp_path / 'bank' / name).write_text('')
        bank()
        assert sorted(path.name for path in (tmp_path / 'bank').iterdir()) == [
            '.lock', 'bank.json', 'marks.bin', 'rows.bin']

    def test_two_that_make_it_at_once(self, bank, monkeypatch):
        """The second waits for the first, and finds what that has made."""
        make, made = RowFile.make, []

        def slowly(*args):
            made.append(args)
            second.start()
            second.join(0.2)
            assert not banks, 'it waits'
            make(*args)
        banks, second = [], threading.Thread(target=lambda: banks.append(bank()))
        monkeypatch.setattr(RowFile, 'make', slowly)
        first, views = bank(), torch.arange(4)
        first.ask(Teacher(), images_of(views), views)
        first.flush()
        second.join()
        assert len(made) == 1 and banks[0].file.marked() == 4

    def test_what_is_no_bank_is_left_alone(self, bank, tmp_path):
        (tmp_path / 'photos').mkdir()
        (tmp_path / 'photos/one.jpg').write_text('')
        for folder in ('photos', 'photos/one.jpg'):
            with pytest.raises(UserError, match='no teacher bank, and not empty'):
                bank(folder=folder)
        with pytest.raises(UserError, match='cannot be made'):
            bank(folder='photos/one.jpg/below')

    def test_a_damaged_folder(self, bank, tmp_path):
        bank()
        (tmp_path / 'bank/rows.bin').unlink()
        with pytest.raises(UserError, match='is damaged'):
            bank()
        entries = json.loads((tmp_path / 'bank/bank.json').read_text())
        for content in ({'format': 2}, entries | {'layout': {}}, entries | {'layout': None}):
            (tmp_path / 'bank/bank.json').write_text(json.dumps(content))
            with pytest.raises(UserError, match='no teacher bank that can be read'):
                bank()
