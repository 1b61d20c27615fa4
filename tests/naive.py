"""Obviously right twins of every kernel, in plain Python over plain lists and sets.

Written from the specification and the seed patch's description, page by page and
bit by bit; nothing here is shared with the package.
"""

from __future__ import annotations

from itertools import product

FULL_WORD = 2**64 - 1
PFNS_PER_BITMAP = 262_144
AREA_WORDS = 4096


def runs(pages):
    """Maximal runs of consecutive pages, ascending: (start, length)."""
    result = []
    for page in sorted(pages):
        if result and result[-1][0] + result[-1][1] == page:
            result[-1][1] += 1
        else:
            result.append([page, 1])
    return [tuple(run) for run in result]


def bitmap_words(pages, first_pfn, n_words):
    """One integer a word, bit i of word w being page first_pfn + 64 w + i."""
    words = [0] * n_words
    for page in pages:
        word, bit = divmod(page - first_pfn, 64)
        words[word] |= 1 << bit
    return words


def encode_pfn(pages, kick_pages=256):
    buffers = []
    for i in range(0, len(pages), kick_pages):
        batch = pages[i : i + kick_pages]
        buffers.append(b"".join(page.to_bytes(4, "little") for page in batch))
    return buffers


def head(start_pfn, page_shift, bmap_len):
    return (start_pfn | page_shift << 52 | bmap_len << 58).to_bytes(8, "little")


def run_records(bits, base, start, end):
    """Records of one run of set bits [start, end): head word, tail word, then blocks."""

    def word_record(word):
        value = sum(1 << i for i in range(64) if 64 * word + i in bits)
        return head(base + 64 * word, 12, 8) + value.to_bytes(8, "little")

    records = []
    first, last = start, end
    if start % 64:
        records.append(word_record(start // 64))
        first = (start // 64 + 1) * 64
    if end % 64 and end > first:
        records.append(word_record(end // 64))
        last = end // 64 * 64
    while first < last:
        order = (last - first).bit_length() - 1
        records.append(head(base + first, 12 + order, 0))
        first += 1 << order
    return records


def encode_bitmap_v4(pages, n_bitmaps=32):
    """Every buffer of one inflation: windows, bitmaps, runs, the flush rule."""
    if not pages:
        return []
    buffers, area = [], b""

    def send():
        nonlocal area
        if area:
            buffers.append((len(area) << 32).to_bytes(8, "little") + area)
        area = b""

    base = min(pages) // 64 * 64
    by_bitmap = {}
    for page in pages:
        number, bit = divmod(page - base, PFNS_PER_BITMAP)
        by_bitmap.setdefault(number, set()).add(bit)
    window = None
    for number in sorted(by_bitmap):
        if number // n_bitmaps != window:
            send()
            window = number // n_bitmaps
        bits = by_bitmap[number]
        position = 0
        for start, length in runs(bits):
            if start < position:  # its word was told with an earlier run
                start, length = position, start + length - position
                if length <= 0:
                    continue
            if len(area) // 8 + 64 > AREA_WORDS:
                send()
            records = run_records(bits, base + number * PFNS_PER_BITMAP, start, start + length)
            area += b"".join(records)
            position = -(-(start + length) // 64) * 64
    send()
    return buffers


def decode_pfn(buffer):
    return [(int.from_bytes(buffer[i : i + 4], "little"), 1) for i in range(0, len(buffer), 4)]


def decode_bitmap_v4(buffer):
    """Ranges of one well-formed buffer, in wire order."""
    data_len = int.from_bytes(buffer[4:8], "little")
    result, at = [], 8
    while at < 8 + data_len:
        value = int.from_bytes(buffer[at : at + 8], "little")
        start, shift, length = value & (1 << 52) - 1, value >> 52 & 63, value >> 58
        bitmap = int.from_bytes(buffer[at + 8 : at + 8 + length], "little")
        if length == 0:
            result.append((start, 1 << shift - 12))
        else:
            result += runs(start + i for i in range(8 * length) if bitmap >> i & 1)
        at += 8 + length
    return result


def decode_hostile(buffer):
    """Ranges of any buffer at all, and the kinds of its bad records in order."""
    if len(buffer) < 8:
        return [], ["length"]
    data_len = int.from_bytes(buffer[4:8], "little")
    if buffer[0]:
        return [], ["cmd"]
    if data_len > len(buffer) - 8 or data_len % 8:
        return [], ["data_len"]
    ranges, kinds, at, end = [], [], 8, 8 + data_len
    while at < end:
        value = int.from_bytes(buffer[at : at + 8], "little")
        start, shift, length = value & (1 << 52) - 1, value >> 52 & 63, value >> 58
        if length % 8 or at + 8 + length > end:
            return ranges, [*kinds, "bmap_len"]
        n_pages = 8 * length if length else 1 << max(shift - 12, 0)
        if shift < 12 or (length and shift != 12):
            kinds.append("page_shift")
        elif start + n_pages > 1 << 52:
            kinds.append("range")
        elif length:
            bitmap = int.from_bytes(buffer[at + 8 : at + 8 + length], "little")
            ranges += runs(start + i for i in range(8 * length) if bitmap >> i & 1)
        else:
            ranges.append((start, n_pages))
        at += 8 + length
    return ranges, kinds


def resolve(slots, gpa, n_bytes):
    """Offset of a buffer that lies in one slot, else -1."""
    for start, n_pages, first_page, _ in slots:
        low, high = start * 4096, (start + n_pages) * 4096
        if n_bytes >= 0 and low <= gpa < high and gpa + n_bytes <= high:
            return first_page * 4096 + gpa - low
    return -1


def translate(slots, ranges, by_page, balloon, inflating):
    """Extents (offset, length) in bytes, and the numbers of ranges refused and repeating.

    `slots`: (start_pfn, n_pages, first_page, balloonable). `balloon`: the set of mapping
    pages in the balloon, moved on here.
    """
    where = {}
    for number, (start, n_pages, first_page, balloonable) in enumerate(slots):
        if balloonable:
            where |= {start + i: (number, first_page + i) for i in range(n_pages)}
    extents, refused, repeating = [], [], []
    for at, (start, n_pages) in enumerate(ranges):
        pages = range(start, start + n_pages)
        if not all(page in where for page in pages):
            refused.append(at)
            continue
        pieces = []
        for page in pages:
            number, index = where[page]
            if (index in balloon) == inflating:
                repeating += [at] if at not in repeating else []
                continue
            balloon ^= {index}
            if not by_page and pieces and pieces[-1][0] == number and pieces[-1][2] + 1 == index:
                pieces[-1][2] = index
            else:
                pieces.append([number, index, index])
        for _, first, last_page in pieces:
            offset, length = first * 4096, (last_page + 1 - first) * 4096
            last = extents[-1] if extents and not by_page else None
            if last and last[0] + last[1] == offset:
                last[1] += length
            elif last and offset + length == last[0]:
                last[0], last[1] = offset, last[1] + length
            else:
                extents.append([offset, length])
    return [tuple(extent) for extent in extents], refused, repeating


def split_by_window(pages, first_pfn, window_pages, n_windows):
    """Pages of each window in list order."""
    return [
        [page for page in pages if (page - first_pfn) // window_pages == number]
        for number in range(n_windows)
    ]


def run_posted(pages, earlier, n_bitmaps, failing_sends=()):
    """Buffers that the posted driver sends, and what stopped it: a word, or None."""
    buffers, area, left, tried = [], b"", n_bitmaps, 0
    window = n_bitmaps * PFNS_PER_BITMAP

    def send():
        nonlocal area, left, tried
        tried += 1
        if tried - 1 not in failing_sends:
            buffers.append((len(area) << 32).to_bytes(8, "little") + area)
            area, left = b"", 1

    start, stop = min(pages) // 64 * 64, -(-max(pages) // 64) * 64
    while start < stop:
        bits = [set() for _ in range(n_bitmaps)]
        for page in reversed([*earlier, *pages]):
            number, bit = divmod(page - start, PFNS_PER_BITMAP)
            if 0 <= page - start < window:
                if number >= left:
                    return buffers, "set"
                bits[number].add(bit)
        highest = max((n * PFNS_PER_BITMAP + max(b) for n, b in enumerate(bits) if b), default=-1)
        for number in range(highest // PFNS_PER_BITMAP + 1):
            if number >= left:
                return buffers, "null"
            base = start + number * PFNS_PER_BITMAP
            end = min(PFNS_PER_BITMAP, (highest // 64 + 1) * 64 - number * PFNS_PER_BITMAP)
            position = 0
            while position < end:
                run = position
                while run < end and run not in bits[number]:
                    run += 1
                if len(area) // 8 + 64 > AREA_WORDS:
                    send()
                if run == end:
                    break
                if number >= left:
                    return buffers, "freed"
                after = run
                while after < end and after in bits[number]:
                    after += 1
                area += b"".join(run_records(bits[number], base, run, after))
                if len(area) > 8 * AREA_WORDS:
                    return buffers, "overrun"
                position = -(-after // 64) * 64
        if area and highest >= 0:
            send()
        start += window
    return buffers, None


class Buddy:
    """Free blocks as lists of (zone, order), the head first."""

    def __init__(self, zones):
        self.zones = zones
        self.free = {(z, o): [] for z in range(len(zones)) for o in range(11)}
        for z, (start, end) in enumerate(zones):
            blocks = []
            while end > start:
                order = max(o for o in range(11) if end % (1 << o) == 0 and end - (1 << o) >= start)
                end -= 1 << order
                blocks.append((end, order))
            for pfn, order in blocks:
                self.free[z, order].insert(0, pfn)

    def take(self, order):
        for z in reversed(range(len(self.zones))):
            for larger in range(order, 11):
                if self.free[z, larger]:
                    pfn = self.free[z, larger].pop(0)
                    for o in reversed(range(order, larger)):
                        self.free[z, o].insert(0, pfn + (1 << o))
                    return pfn
        return None

    def give(self, pfn, order):
        z = next(z for z, (start, end) in enumerate(self.zones) if start <= pfn < end)
        while order < 10 and pfn ^ (1 << order) in self.free[z, order]:
            self.free[z, order].remove(pfn ^ (1 << order))
            pfn &= ~(1 << order)
            order += 1
        self.free[z, order].insert(0, pfn)

    def blocks(self):
        return {(o, pfn) for (_, o), pfns in self.free.items() for pfn in pfns}


def take_largest(buddy, n_pages, most_blocks):
    """The largest blocks (first page, order) that make up at most so many pages."""
    blocks = []
    for order in reversed(range(11)):
        while 1 << order <= n_pages and len(blocks) < most_blocks:
            pfn = buddy.take(order)
            if pfn is None:
                break
            blocks.append((pfn, order))
            n_pages -= 1 << order
    return blocks


class Chunks:
    """A balloon of blocks (first page, order), oldest first, and its allocator."""

    def __init__(self, buddy):
        self.buddy, self.blocks = buddy, []

    def pages(self):
        return [pfn + i for pfn, order in self.blocks for i in range(1 << order)]

    def inflate(self, n_pages):
        """Blocks that enter."""
        taken = take_largest(self.buddy, n_pages, n_pages)
        self.blocks += taken
        return taken

    def deflate(self, n_pages):
        """Blocks that leave, the newest first; halves of one that is cut stay below."""
        left = []
        while n_pages:
            pfn, order = self.blocks.pop()
            while 1 << order > n_pages:  # the lower half stays, unless all of the upper one leaves
                order -= 1
                half = 1 << order
                if n_pages >= half:
                    left.append((pfn + half, order))
                    n_pages -= half
                else:
                    self.blocks.append((pfn, order))
                    pfn += half
                if n_pages == 0:
                    self.blocks.append((pfn, order))
                    break
            else:
                left.append((pfn, order))
                n_pages -= 1 << order
        for block in left:
            self.buddy.give(*block)
        return left

    def records(self, blocks):
        """Messages that name blocks: heads alone, as many as the record area takes."""
        buffers = []
        for i in range(0, len(blocks), AREA_WORDS):
            area = b"".join(head(pfn, 12 + order, 0) for pfn, order in blocks[i : i + AREA_WORDS])
            buffers.append((len(area) << 32).to_bytes(8, "little") + area)
        return buffers


def work(buddy, held, slots, orders):
    """Play a workload: `held` maps a slot to its block (first page, order)."""
    for slot, order in zip(slots, orders, strict=True):
        if slot in held:
            buddy.give(*held.pop(slot))
        for smaller in range(order, -1, -1):
            pfn = buddy.take(smaller)
            if pfn is not None:
                held[slot] = (pfn, smaller)
                break


def free_space_is_sound(zones, blocks):
    """Say whether blocks (order, first page) could be a buddy allocator's free lists."""
    for order, pfn in blocks:
        zone = next((z for z in zones if z[0] <= pfn and pfn + (1 << order) <= z[1]), None)
        if zone is None or pfn % (1 << order):
            return False
        if order < 10 and (order, pfn ^ (1 << order)) in blocks:
            return False
    return True


def pages_of_blocks(blocks):
    """Every page of blocks (order, first page), once for each block that it is in."""
    return sorted(pfn + i for order, pfn in blocks for i in range(1 << order))


def page_sets_of(n_pages, size, n_runs):
    """Every set of `size` of the pages 0 to n_pages - 1 that has `n_runs` runs."""
    sets = (
        [i for i in range(n_pages) if mask >> i & 1]
        for mask in range(1 << n_pages)
        if mask.bit_count() == size
    )
    return {tuple(pages) for pages in sets if len(runs(pages)) == n_runs}


def bits_by_word(pages):
    """Bits set in every word from the first page's to the last page's, and its number."""
    if not pages:
        return {}
    words = dict.fromkeys(range(min(pages) // 64, max(pages) // 64 + 1), 0)
    for page in pages:
        words[page // 64] += 1
    return words


def unusable_index(free_blocks, order):
    """Share of the free memory that is in blocks smaller than `order` (Gorman 2006)."""
    total = sum(n << o for o, n in enumerate(free_blocks))
    usable = sum(n << o for o, n in enumerate(free_blocks) if o >= order)
    return (total - usable) / total if total else 1.0


def filled(n_pages):
    """Memory in which each 64-bit word is its number, exclusive or a constant."""
    words = (number ^ 0x9E3779B97F4A7C15 for number in range(512 * n_pages))
    return bytearray(b"".join(word.to_bytes(8, "little") for word in words))


def compare(memory, inside):
    """Pages outside, words of them changed, pages inside, words of them not 0."""
    n_pages = len(memory) // 4096
    pattern, found = filled(n_pages), [0, 0, 0, 0]
    for page in range(n_pages):
        at = 2 if page in inside else 0
        found[at] += 1
        for i in range(4096 * page, 4096 * (page + 1), 8):
            expected = bytes(8) if page in inside else pattern[i : i + 8]
            found[at + 1] += memory[i : i + 8] != expected
    return found


def qemu_message(firsts, block_bytes, gpa):
    """Descriptors (addr, len, flags, next) of a message for QEMU, and its bytes."""
    if not firsts:
        return [(gpa, 1, 0, 0)], 1
    if block_bytes == 0:
        return [(gpa, 4 * len(firsts), 0, 0)], 4 * len(firsts)
    write, more = 2, 1
    descriptors = [
        (4096 * first, block_bytes, write | more, i + 1) for i, first in enumerate(firsts)
    ]
    descriptors[-1] = (4096 * firsts[-1], block_bytes, write, 0)
    return descriptors, 16 * len(firsts)


def traced_pages(text):
    """Pages that QEMU's trace output names, line by line, with the queue notified before."""
    told, queue = [], 255
    for line in text.splitlines():
        if "virtio_queue_notify" in line:
            queue = int(line.split(" n ")[1].split()[0])
        elif "virtio_balloon_handle_output" in line:
            told.append((int(line.split("gpa: ")[1], 16) // 4096, queue))
    return told


def settled(told, queue):
    """Pages whose last mention came through `queue`, in the order of these mentions."""
    last = {}
    for page, through in told:
        last.pop(page, None)
        last[page] = through
    return [page for page, through in last.items() if through == queue]


def read_cpio(archive):
    """Files of a newc archive: path, mode and content (cpio(5))."""
    files, at = [], 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        size, name_size = fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        start = -(-(at + 110 + name_size) // 4) * 4
        if name == b"TRAILER!!!\0":
            return files
        files.append((name[:-1].decode(), fields[1], archive[start : start + size]))
        at = -(-(start + size) // 4) * 4


def fetch(slots, ram, parts, room):
    """Bytes of a chain of (gpa, length), or what is wrong with it."""
    data = b""
    for gpa, n_bytes in parts:
        offset = resolve(slots, gpa, n_bytes)
        if offset < 0:
            return "address"
        if len(data) + n_bytes > room:
            return "length"
        data += ram[offset : offset + n_bytes]
    return data


def signatures(n_pages):
    """First words of touched pages."""
    return [page ^ 0x9E3779B97F4A7C15 for page in range(n_pages)]


def xorshift64(x, n):
    """Marsaglia's generator: n numbers from the seed on."""
    drawn = []
    for _ in range(n):
        x ^= x << 13 & 2**64 - 1
        x ^= x >> 7
        x ^= x << 17 & 2**64 - 1
        drawn.append(x)
    return drawn


def decode_blocks(pairs):
    """Ranges of (address, bytes) pairs, and where in the message the bad ones are."""
    ranges, bad = [], []
    for number, (address, n_bytes) in enumerate(pairs):
        if n_bytes == 0 or address % 4096 or n_bytes % 4096:
            bad.append(16 * number)
        else:
            ranges.append([address // 4096, n_bytes // 4096])
    return ranges, bad


def fetch_blocks(chain, ram, room):
    """Pairs of a chain of (address, bytes, flags) and its command id; None where it is refused."""
    pairs, command = [], -1
    for address, n_bytes, flags in chain:
        if flags == 4:
            return None, command
        if flags == 2:
            if len(pairs) == room:
                return None, command
            pairs.append((address, n_bytes))
        elif n_bytes != 4 or address + 4 > ram.size:
            return None, command
        else:
            command = int.from_bytes(ram[address : address + 4].tobytes(), "little")
    return pairs, command


def sort_extents(extents):
    """Extents (offset, bytes) in order, those that adjoin or overlap merged."""
    merged = []
    for offset, n_bytes in sorted(extents):
        if merged and sum(merged[-1]) >= offset:
            merged[-1][1] = max(merged[-1][1], offset + n_bytes - merged[-1][0])
        else:
            merged.append([offset, n_bytes])
    return merged


def count_calls(messages, discard, vectors, collect):
    """Calls that discard: of messages, each a list of ranges (start, length) of host pages."""
    held, calls = [], 0
    for number, ranges in enumerate(messages, 1):
        for start, n in ranges:
            if discard == "page":
                held += [(page, 1) for page in range(start, start + n)]
            elif held and sum(held[-1]) == start:
                held[-1] = (held[-1][0], held[-1][1] + n)
            elif held and start + n == held[-1][0]:
                held[-1] = (start, held[-1][1] + n)
            else:
                held.append((start, n))
        if number % collect == 0 or number == len(messages):
            if "sorted" in discard:
                held = runs({page for start, n in held for page in range(start, start + n)})
            calls += -(-len(held) // vectors) if "vector" in discard else len(held)
            held = []
    return calls


def complete(extents, inside, page_bytes):
    """Huge pages that extents are of and of which all 4 KiB pages are in the balloon, merged."""
    touched = set()
    for offset, n_bytes in extents:
        touched |= set(range(offset // page_bytes, (offset + n_bytes - 1) // page_bytes + 1))
    n = page_bytes // 4096
    full = [huge for huge in touched if all(huge * n + i in inside for i in range(n))]
    return sort_extents([(huge * page_bytes, page_bytes) for huge in full])


def read_back(words, ballooned, signature):
    """How many pages of the balloon hold zero, their signature, anything else in the first word."""
    found = [0, 0, 0]
    for page in ballooned:
        held = words[512 * page]
        found[0 if held == 0 else 1 if held == page ^ signature else 2] += 1
    return found


def vectored(extents, most, refused):
    """Calls of a vectored discard and how many failed, where some offsets are refused."""
    calls, failed, left = 0, 0, list(extents)
    while left:
        calls += 1
        for offset, _ in left[:most]:
            left = left[1:]
            if offset in refused:
                failed += 1
                break
    return calls, failed


def stage_times(guest, host):
    """Ns by stage, counted: the guest's work, else its host's while it waits."""
    names = {
        0: ("allocate", "all"), 1: ("send", "pack"), 3: ("send", "decode"),
        4: ("translate", "all"), 5: ("discard", "all"), 7: ("send", "notify"),
    }  # fmt: skip
    end, found = guest[-1][2], {}
    for now in range(guest[0][1], max([end, *(row[2] for row in host)])):
        own = [kind for kind, low, high in guest if low <= now < high]
        at_host = [kind for kind, low, high in host if low <= now < high]
        if own and own[0] not in (2, 8):
            name = names[own[0]]
        elif own or now >= end:
            name = names[at_host[0]] if at_host else ("send", "notify")
        else:
            name = ("remainder", "all")
        found[name] = found.get(name, 0) + 1
    return found


def time_bin(ns):
    """Bin of a time: below 32 ns each its own, above 16 for each doubling."""
    shift = max(0, ns.bit_length() - 5)
    return 16 * shift + (ns >> shift)


def bystander_step(words, pages, state):
    """Words (a list) after a step on pages, and the state of Marsaglia's xorshift64 then."""
    words, most = list(words), 2**64
    for _ in range(64):
        state ^= state << 13 & most - 1
        state ^= state >> 7
        state ^= state << 17 & most - 1
        page = pages[(state >> 33) % len(pages)]
        words[512 * page + 1 + state % 2**20 % 511] += 1
    return words, state


def sorted_runs(pages):
    return list(runs(sorted(pages)))


def in_areas(records, most, header=lambda records: b""):
    """Records put into messages, each as long as there is room for one more of `most` bytes."""
    buffers, area = [], []
    for record in records:
        if len(header(area)) + sum(map(len, area)) + most > 8 * AREA_WORDS:
            buffers.append(header(area) + b"".join(area))
            area = []
        area.append(record)
    return [*buffers, header(area) + b"".join(area)] if area else buffers


def short_or_long(start, n):
    if n < 4096:
        return (start << 12 | n).to_bytes(8, "little")
    return (start << 12).to_bytes(8, "little") + n.to_bytes(8, "little")


def encode_range_v6(pages):
    return in_areas([short_or_long(*run) for run in sorted_runs(pages)], 16)


def encode_chunk_v7(pages):
    records = [short_or_long(*run) for run in sorted_runs(pages)]
    return in_areas(records, 16, lambda area: len(area).to_bytes(8, "little"))


def encode_desc_v11(pages):
    def desc(start, n):
        return (start << 12).to_bytes(8, "little") + (n << 12).to_bytes(8, "little")

    return in_areas([desc(*run) for run in sorted_runs(pages)], 16)


def encode_cont_pages(pages):
    return in_areas([(a | n << 32).to_bytes(8, "little") for a, n in sorted_runs(pages)], 16)


def decode_short_or_long(buffer):
    found, words = (
        [],
        [int.from_bytes(buffer[i : i + 8], "little") for i in range(0, len(buffer), 8)],
    )
    while words:
        word = words.pop(0)
        found.append((word >> 12, word & 4095 or words.pop(0)))
    return found


def decode_chunk_v7(buffer):
    return decode_short_or_long(buffer[8:])


def decode_desc_v11(buffer):
    words = [int.from_bytes(buffer[i : i + 8], "little") for i in range(0, len(buffer), 8)]
    return [(a >> 12, n >> 12) for a, n in zip(words[::2], words[1::2], strict=True)]


def decode_cont_pages(buffer):
    words = [int.from_bytes(buffer[i : i + 8], "little") for i in range(0, len(buffer), 8)]
    return [(word & 2**32 - 1, word >> 32) for word in words]


def words_from(pages):
    base = min(pages) // 64 * 64
    return base, bitmap_words(pages, base, max(pages) // 64 - base // 64 + 1)


def encode_bitmap_v3(pages):
    if not pages:
        return []
    base, words = words_from(pages)
    buffers, at = [], 0
    while any(words[at:]):
        while words[at] == 0:
            at += 1
        part = list(words[at : at + 4092])
        while part[-1] == 0:
            part.pop()
        header = [12 << 16, 0, base + 64 * at, 8 * len(part)]
        buffers.append(b"".join(int(word).to_bytes(8, "little") for word in header + part))
        at += len(part)
    return buffers


def decode_bitmap_v3(buffer):
    start, bits = int.from_bytes(buffer[16:24], "little"), int.from_bytes(buffer[32:], "little")
    return list(runs(start + i for i, bit in enumerate(f"{bits:b}"[::-1]) if bit == "1"))


def encode_bitmap_v4_wide(pages):
    if not pages:
        return []
    base, words = words_from(pages)
    records, at = [], 0
    while at < len(words):
        begin = at
        if words[at] == 0:
            at += 1
        elif words[at] == FULL_WORD:
            while at < len(words) and words[at] == FULL_WORD:
                at += 1
            records.append(b"".join(run_records(set(), base + 64 * begin, 0, 64 * (at - begin))))
        else:
            while at < min(len(words), begin + 7) and words[at] not in (0, FULL_WORD):
                at += 1
            bits = b"".join(int(word).to_bytes(8, "little") for word in words[begin:at])
            records.append(head(base + 64 * begin, 12, 8 * (at - begin)) + bits)
    buffers, area = [], b""
    for record in records:
        if len(area) // 8 + 64 > AREA_WORDS:
            buffers.append(area)
            area = b""
        area += record
    return [(len(area) << 32).to_bytes(8, "little") + area for area in [*buffers, area]]


def decode_adaptive(buffer):
    """Ranges of one well-formed buffer, in wire order; BITS joined within a segment."""
    units = [int.from_bytes(buffer[i : i + 2], "little") for i in range(0, len(buffer), 2)]
    found = []

    def take(n):
        value = sum(unit << 16 * i for i, unit in enumerate(units[:n]))
        del units[:n]
        return value

    while units:
        value = take(4)
        kind = value & 7
        base, count = (value >> 3 & 2**33 - 1) * 64, (value >> (3 if kind == 4 else 36) & 65535) + 1
        if kind == 0:
            found.append((value >> 3 & 2**39 - 1, (value >> 42) + 1))
        elif kind == 1:
            found += [(base + take(1), take(1) + 1) for _ in range(count)]
        elif kind == 2:
            found += [(base + take(1), 1) for _ in range(count)]
        elif kind == 3:
            bits = sum(take(4) << 64 * i for i in range(count))
            found += list(runs(base + i for i in range(64 * count) if bits >> i & 1))
        else:
            found += [(take(2), 1) for _ in range(count)]
    return found


def fewest_bytes(words):
    """Bytes of the best segments of `adaptive` for a few bitmap words, every way tried.

    Without the head of the list of page numbers, which a message has once."""
    best = None
    there = [i for i, word in enumerate(words) if word]
    for kinds in product(range(5), repeat=len(there)):
        total, before = 0, None
        for i, kind in zip(there, kinds, strict=True):
            word = int(words[i])
            goes_on = i and int(words[i - 1]) >> 63 & word & 1
            starts = (word & ~(word << 1)).bit_count()
            same = before is not None and before[1] == kind and (kind != 3 or before[0] == i - 1)
            joined = starts - bool(goes_on and same)
            total += [8 * joined, 4 * joined, 2 * word.bit_count(), 8, 4 * word.bit_count()][kind]
            total += 0 if same or kind in (0, 4) else 8
            before = i, kind
        best = total if best is None else min(best, total)
    return best


def fewest_bytes_by_walking(words):
    """The same of many words: the fewest bytes that lead up to a word by each way, in one walk."""
    best, ways, before = 0, {}, None
    for i, word in enumerate(map(int, words)):
        if not word:
            continue
        goes_on = bool(i and int(words[i - 1]) >> 63 & word & 1)
        starts, n = (word & ~(word << 1)).bit_count(), word.bit_count()
        reached = {}
        for kind, adds in enumerate([8 * starts, 4 * starts, 2 * n, 8, 4 * n]):
            total, first = ways.get(kind, (float("inf"), i))
            if (kind == 3 and before != i - 1) or (kind in (1, 2) and i - first >= 1024):
                total = float("inf")
            total += adds - goes_on * [8, 4, 0, 0, 0][kind]
            anew = best + adds + [0, 8, 8, 8, 0][kind]
            reached[kind] = (anew, i) if anew < total or kind == 4 else (total, first)
        ways, before = reached, i
        best = min(total for total, _ in ways.values())
    return best


def listed_runs(pages):
    """Runs of neighbours in a list, in its order, each up or down: (lowest page, pages)."""
    found, i = [], 0
    while i < len(pages):
        step = 1
        if i + 1 < len(pages) and pages[i + 1] == pages[i] - 1:
            step = -1
        n = 1
        while i + n < len(pages) and pages[i + n] == pages[i] + n * step:
            n += 1
        found.append((min(pages[i], pages[i + n - 1]), n))
        i += n
    return found


def joined_ranges(ranges):
    """Join each range with the last one where they are neighbours, on either side."""
    joined = []
    for start, n_pages in ranges:
        if joined and joined[-1][1] == start:
            joined[-1][1] = start + n_pages
        elif joined and start + n_pages == joined[-1][0]:
            joined[-1][0] = start
        else:
            joined.append([start, start + n_pages])
    return joined
