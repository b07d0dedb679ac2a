// Which rows a workgroup of a matmul or a matvec has: what locate() (matmul.cpp, matvec.cpp) finds out.
var<private> segment: u32;
var<private> segment_rows: u32;
var<private> first_row: u32;
var<private> y_base: u32;  // of the segment's row 0, in a token's row of Y
