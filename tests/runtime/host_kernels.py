"""What kernels compute on the host back end: by their plain references, or in Triton's interpreter."""

import torch


def run_reference(device, kernel, values):
    """Compute a kernel by `ovsdino.kernels.reference`."""
    {"PhotoWindows": _photo_windows, "CosineScores": _cosine_scores, "MergeArgmax": _merge_argmax}[
        kernel.operator
    ](Arguments(device, kernel, values), kernel.constants)


def run_interpreted(device, kernel, values):
    """Compute a kernel by itself; TRITON_INTERPRET=1 was set before Triton was imported."""
    from ovsdino.kernels import device_kernels

    arguments = Arguments(device, kernel, values)
    given = [
        values[a.name] if a.role == "integer" else arguments.rest(a.name, a.dtype) for a in kernel.arguments
    ]
    grid = tuple(axis.programs(values) for axis in kernel.grid)
    getattr(device_kernels, kernel.entry)[grid](*given, *kernel.constants.values())


class Arguments:
    """The arguments of a launch: integers by name, tensors by name and shape."""

    def __init__(self, device, kernel, values):
        self.device, self.values = device, values
        self.dtypes = {argument.name: argument.dtype for argument in kernel.arguments}

    def __getitem__(self, name):
        return self.values[name]

    def tensor(self, name, *shape):
        return torch.from_numpy(self.device.tensor(self.values[name], self.dtypes[name], shape))

    def rest(self, name, dtype):
        """All from an address to the end of its memory: the kernel knows how much of it is its own."""
        start = self.values[name]
        block = next(block for block in self.device.blocks if self.device.holds(block, start, 1))
        size = torch.empty(0, dtype=getattr(torch, dtype)).element_size()
        return self.tensor(name, (block.address + block.size - start) // size)


def _photo_windows(a, _):
    from ovsdino.kernels import reference

    size, windows = a["size"], a["first"] + a["batch"]
    rows = _side(a, "row", -(-windows // a["across"]) * size)
    columns = _side(a, "column", a["across"] * size)
    height = int(rows.starts.max()) + a["row_taps"]
    photo, colours = a.tensor("photo", height, a["width"], 3), a.tensor("colours", 6)
    assert a["near"] > 1 or not (rows.shares.any() or columns.shares.any())
    cut = reference.photo_windows(
        photo, rows, columns=columns, colours=colours, size=size, antialias=a["antialias"]
    )
    a.tensor("pixels", a["batch"], 3, size, size)[:] = cut[a["first"] : windows]


def _side(a, side, count):
    from ovsdino.kernels import reference

    lows, shares = a.tensor(f"{side}_lows", count), a.tensor(f"{side}_shares", count)
    resized = int(lows.max()) + 1 + (a["near"] > 1)  # one more, for there is always a next one
    starts, weights = (
        a.tensor(f"{side}_starts", resized),
        a.tensor(f"{side}_weights", resized, a[f"{side}_taps"]),
    )
    return reference.Side(lows, shares, starts=starts, weights=weights)


def _cosine_scores(a, _):
    from ovsdino.kernels import reference

    features = a.tensor("features", a["windows"], a["channels"], a["area"], 1)
    text = a.tensor("text", a["first"] + a["classes"], a["channels"])[a["first"] :]
    scores = reference.cosine_scores(features, text)
    a.tensor("scores", *scores.shape)[:] = scores


def _merge_argmax(a, constants):
    from ovsdino.kernels import reference

    height, width = a["height"], a["width"]
    bands, strips = -(-height // constants["rows"]), -(-width // constants["columns"])
    best, labels = reference.merge_argmax(
        a.tensor("scores", a["classes"], a["plane"]),
        a.tensor("row_nodes", bands, a["row_count"]),
        row_weights=a.tensor("row_weights", bands * constants["rows"], a["row_count"]),
        column_nodes=a.tensor("column_nodes", strips, a["column_count"]),
        column_weights=a.tensor("column_weights", strips * constants["columns"], a["column_count"]),
    )
    best, labels = best[:height, :width], labels[:height, :width].int() + a["first"]
    top, kept = a.tensor("best", height, width), a.tensor("labels", height, width)
    if a["first"]:
        better = best > top
        best, labels = torch.where(better, best, top), torch.where(better, labels, kept.int())
    scale, bias, threshold = a.tensor("head", 3)
    sure = torch.sigmoid(scale * best + bias)
    if a["last"]:
        labels = torch.where(sure < threshold, 0, labels + a["offset"])
    top[:], kept[:] = best, labels.to(torch.uint16)
    a.tensor("confidence", height, width)[:] = torch.where(sure < threshold, 1 - sure, sure).half()
