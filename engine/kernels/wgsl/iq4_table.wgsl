//#include nibble_table.wgsl
// -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113.
const IQ4_TABLE = vec4<u32>(0xBFAD9881u, 0xF6EADDCFu, 0x26190D01u, 0x71594535u);
fn iq4_bytes(q: vec4<u32>, h: u32) -> vec4<u32> { return table_bytes(nibbles(q, h), IQ4_TABLE); }
