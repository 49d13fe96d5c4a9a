// Streams a file through the processing element and writes down what comes out, cycle by cycle.
//
//   vvp bench +operations=FILE +results=FILE
//
// A line of operations is one cycle, in hexadecimal: reset valid approximate x weights. A line of results is
// one cycle with an output: its number from 0 on (decimal), valid and approximate (a bit each), products
// (hexadecimal).

`default_nettype none

module processing_element_bench;
    // Longer than the pipeline, so that an output too many or too late is seen too.
    localparam DRAIN = 16;

    reg clock = 1'b0;
    reg reset, valid, approximate;
    reg [15:0] x, weights;
    wire valid_out, approximate_out;
    wire [79:0] products;

    processing_element element (
        .clock(clock), .reset(reset), .valid_in(valid), .approximate_in(approximate), .x(x),
        .weights(weights), .valid_out(valid_out), .approximate_out(approximate_out), .products(products)
    );

    reg [8*1024-1:0] name;
    integer operations, results, fields, drained;
    integer cycle = -1;

    initial begin
        if (!$value$plusargs("operations=%s", name)) $display("+operations=FILE is missing");
        operations = $fopen(name, "r");
        if (!$value$plusargs("results=%s", name)) $display("+results=FILE is missing");
        results = $fopen(name, "w");
        drained = 0;
        while (drained < DRAIN) begin
            fields = $fscanf(operations, "%h %h %h %h %h", reset, valid, approximate, x, weights);
            if (fields != 5) begin
                reset = 1'b0;
                valid = 1'b0;
                drained = drained + 1;
            end
            cycle = cycle + 1;
            #1 clock = 1'b1;
            #1 clock = 1'b0;
        end
        $fclose(results);
        $finish;
    end

    // What a register behind the element would take over at this edge. Before the first reset has come
    // through nothing is known; from then on an unknown `valid` is written down as well.
    always @(posedge clock)
        if (cycle > 0 && valid_out !== 1'b0)
            $fdisplay(results, "%0d %b%b %h", cycle, valid_out, approximate_out, products);
endmodule
