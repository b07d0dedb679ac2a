// The pixels of a picture, patch by patch, as floats from -1 to 1, or from 0. One thread a value.
//#include step.wgsl
//#include grid.wgsl
const VALUES: u32 = 3u * SIDE * SIDE;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let patch_index = id.y;
  if (id.x >= VALUES || patch_index >= step.tokens) {
    return;
  }
  let channel = id.x / (SIDE * SIDE);
  let row = patch_index / grid.columns * SIDE + id.x / SIDE % SIDE;
  let column = patch_index % grid.columns * SIDE + id.x % SIDE;
  let byte = 3u * (row * grid.columns * SIDE + column) + channel;
  let value = extractBits(image[byte >> 2u], 8u * (byte & 3u), 8u);
//#if CENTRED
  patches[patch_index * VALUES + id.x] = 2.0 * (f32(value) / 255.0) - 1.0;
//#else
  patches[patch_index * VALUES + id.x] = f32(value) / 255.0;
//#endif
}
