// Connected regions of a label map, and the merging of small ones: the runtime's geometry/regions.py.

const MAX_PASSES = 16; // a small region beside a smaller one may need several

/** Number the regions whose pixels touch along a side, in the order of their first pixels. */
function findRegions(labels, height, width) {
  const numbers = new Int32Array(labels.length).fill(-1);
  const regions = { numbers, labels: [], areas: [] };
  const waiting = new Int32Array(labels.length);
  for (let start = 0; start < labels.length; start++) {
    if (numbers[start] >= 0) continue;
    const number = regions.areas.length;
    const label = labels[start];
    let count = 1;
    waiting[0] = start;
    numbers[start] = number;
    const visit = (p) => {
      if (numbers[p] < 0 && labels[p] === label) {
        numbers[p] = number;
        waiting[count++] = p;
      }
    };
    for (let i = 0; i < count; i++) {
      const p = waiting[i];
      const column = p % width;
      if (column > 0) visit(p - 1);
      if (column < width - 1) visit(p + 1);
      if (p >= width) visit(p - width);
      if (p + width < labels.length) visit(p + width);
    }
    regions.labels.push(label);
    regions.areas.push(count);
  }
  return regions;
}

/** Give each region below `minArea` pixels the label of the larger neighbour that it touches the most. */
function mergeSmallRegions(labels, height, width, minArea) {
  for (let pass = 0; pass < MAX_PASSES; pass++) {
    const regions = findRegions(labels, height, width);
    if (regions.areas.length === 1 || regions.areas.every((area) => area >= minArea)) return labels;
    const chosen = chooseNeighbours(regions, height, width, minArea);
    labels = Uint16Array.from(regions.numbers, (number) => regions.labels[chosen[number]]);
  }
  return labels;
}

/** Whose label each region takes: its own, or that of a larger neighbour. */
function chooseNeighbours({ numbers, areas }, height, width, minArea) {
  const borders = areas.map(() => new Map()); // of each region: neighbour -> pixels along which they touch
  const touch = (a, b) => {
    if (numbers[a] === numbers[b]) return;
    for (const [one, other] of [[numbers[a], numbers[b]], [numbers[b], numbers[a]]]) {
      borders[one].set(other, (borders[one].get(other) ?? 0) + 1);
    }
  };
  for (let p = 0; p < numbers.length; p++) {
    if ((p + 1) % width) touch(p, p + 1);
    if (p + width < numbers.length) touch(p, p + width);
  }
  // Of two equal areas the lower number is the larger, so that two regions never swap their labels.
  const larger = (a, b) => areas[a] > areas[b] || (areas[a] === areas[b] && a < b);
  const chosen = areas.map((area, region) => {
    let best = region;
    let longest = 0;
    if (area >= minArea) return region;
    for (const [neighbour, length] of borders[region]) {
      if (!larger(neighbour, region)) continue;
      if (length > longest || (length === longest && larger(neighbour, best))) {
        best = neighbour;
        longest = length;
      }
    }
    return best;
  });
  return chosen.map((region) => {
    while (chosen[region] !== region) region = chosen[region];
    return region;
  });
}
