/** As many of the first as fit into so many bytes of JSON; the very first in any case. */
export function fitting<Item>(items: readonly Item[], bytesMax: number): Item[] {
  let bytes = 0;
  const end = items.findIndex((item, index) => {
    bytes += Buffer.byteLength(JSON.stringify(item));
    return index > 0 && bytes > bytesMax;
  });
  return items.slice(0, end < 0 ? items.length : end);
}
