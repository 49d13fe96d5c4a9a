// A processing element: sixteen bricks and a shift-add tree that finish in every cycle either one product of
// two signed 16-bit numbers or four products of one with four signed 4-bit weights. How it is checked and
// what that shows: README.md beside this file.

`default_nettype none

// A 4x4 multiplier, each operand signed or unsigned.
module brick (
    input  wire [3:0] a,
    input  wire       a_is_signed,
    input  wire [3:0] b,
    input  wire       b_is_signed,
    output wire signed [8:0] product
);
    // With a fifth bit an unsigned digit is a signed number too, so one multiplier serves all four cases.
    // Nine bits, because 15 * 15 has to stay positive.
    wire signed [4:0] a_extended = {a_is_signed & a[3], a};
    wire signed [4:0] b_extended = {b_is_signed & b[3], b};
    assign product = a_extended * b_extended;
endmodule


// x times one weight digit: four bricks. Two of the five cycles: brick products, then their sum.
module multiplier_16x4 (
    input  wire        clock,
    input  wire [15:0] x,
    input  wire [3:0]  digit,
    input  wire        digit_is_signed,
    output reg  signed [19:0] product
);
    wire signed [8:0] brick_0, brick_1, brick_2, brick_3;

    // In two's complement the sign sits in the top digit alone; the digits below it only add.
    brick digit_0 (
        .a(x[3:0]), .a_is_signed(1'b0), .b(digit), .b_is_signed(digit_is_signed), .product(brick_0)
    );
    brick digit_1 (
        .a(x[7:4]), .a_is_signed(1'b0), .b(digit), .b_is_signed(digit_is_signed), .product(brick_1)
    );
    brick digit_2 (
        .a(x[11:8]), .a_is_signed(1'b0), .b(digit), .b_is_signed(digit_is_signed), .product(brick_2)
    );
    brick digit_3 (
        .a(x[15:12]), .a_is_signed(1'b1), .b(digit), .b_is_signed(digit_is_signed), .product(brick_3)
    );

    reg signed [8:0] part_0, part_1, part_2, part_3;

    // Two adders deep, but short ones: the wide additions that follow then have a cycle each.
    wire signed [12:0] low  = part_0 + (part_1 <<< 4);
    wire signed [12:0] high = part_2 + (part_3 <<< 4);

    always @(posedge clock) begin
        part_0 <= brick_0;
        part_1 <= brick_1;
        part_2 <= brick_2;
        part_3 <= brick_3;
        // 20 bits hold -32768 * 15, a signed x times an unsigned digit
        product <= low + (high <<< 8);
    end
endmodule


// Latency 5 cycles (brick 2: operands, products; shift-add 3), one operation per cycle, modes in any order:
// the mode travels with its operation, so a change of mode needs no empty cycle.
module processing_element (
    input  wire        clock,
    input  wire        reset,            // synchronous; drops all that is under way
    input  wire        valid_in,
    input  wire        approximate_in,   // 0: x * weights; 1: x * each signed 4-bit field of weights
    input  wire [15:0] x,                // signed
    input  wire [15:0] weights,          // one signed weight, or weight r in bits 4r+3..4r
    output wire        valid_out,
    output wire        approximate_out,
    output reg  [79:0] products          // one in bits 31..0 and zeros above, or product r in 20r+19..20r
);
    localparam LATENCY = 5;

    // Bit s belongs to what the registers of stage s hold.
    reg [LATENCY-1:0] valid;
    reg [LATENCY-1:0] approximate;
    assign valid_out = valid[LATENCY-1];
    assign approximate_out = approximate[LATENCY-1];

    always @(posedge clock) begin
        // Data needs no reset: nobody looks at it unless it is valid.
        valid <= reset ? {LATENCY{1'b0}} : {valid[LATENCY-2:0], valid_in};
        approximate <= {approximate[LATENCY-2:0], approximate_in};
    end

    // Stage 0. Operands stay in an empty cycle: bricks whose inputs do not change take no switching energy.
    reg [15:0] x_held, weights_held;
    always @(posedge clock)
        if (valid_in) begin
            x_held <= x;
            weights_held <= weights;
        end

    // Stages 1 and 2. Four weights have a sign each, the digits of one weight share that of the top digit.
    wire signed [19:0] row_0, row_1, row_2, row_3;
    multiplier_16x4 weight_0 (
        .clock(clock), .x(x_held), .digit(weights_held[3:0]), .digit_is_signed(approximate[0]),
        .product(row_0)
    );
    multiplier_16x4 weight_1 (
        .clock(clock), .x(x_held), .digit(weights_held[7:4]), .digit_is_signed(approximate[0]),
        .product(row_1)
    );
    multiplier_16x4 weight_2 (
        .clock(clock), .x(x_held), .digit(weights_held[11:8]), .digit_is_signed(approximate[0]),
        .product(row_2)
    );
    multiplier_16x4 weight_3 (
        .clock(clock), .x(x_held), .digit(weights_held[15:12]), .digit_is_signed(1'b1),
        .product(row_3)
    );

    // Stages 3 and 4. Four finished products wait in the registers that else hold the sums.
    wire signed [23:0] pair_low  = row_0 + (row_1 <<< 4);
    wire signed [23:0] pair_high = row_2 + (row_3 <<< 4);
    reg [79:0] sums;
    wire signed [23:0] sum_low  = sums[23:0];
    wire signed [23:0] sum_high = sums[47:24];
    wire signed [31:0] product  = sum_low + (sum_high <<< 8);

    always @(posedge clock) begin
        sums <= approximate[2] ? {row_3, row_2, row_1, row_0} : {32'b0, pair_high, pair_low};
        products <= approximate[3] ? sums : {48'b0, product};
    end
endmodule

`default_nettype wire
