"""Inner products of queries with rows that are named by their numbers, compiled by numba: see `neighbours`."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# Types are inferred by numba, which has none of its own.

from selfsup.devices.kept import kept


@kept("void(float64[:, ::1], float32[:, ::1], int64[:, ::1], float64[:, ::1])", sums_in_any_order=True)
def products(queries, bank, numbers, out):
    """(Q, D), (N, D), (Q, C) -> (Q, C): of each query with the bank rows of these numbers.

    The order of a sum is the same for every row, so that equal rows have equal products, wherever they stand. Eight
    rows are read at once, as it is memory that is waited for; the last ones stand for those that are missing.
    """
    last = numbers.shape[1] - 1
    for query in range(numbers.shape[0]):
        for first in range(0, numbers.shape[1], 8):
            b, c, d = min(first + 1, last), min(first + 2, last), min(first + 3, last)
            e, f, g, h = min(first + 4, last), min(first + 5, last), min(first + 6, last), min(first + 7, last)
            row_a, row_b, row_c, row_d = numbers[query, first], numbers[query, b], numbers[query, c], numbers[query, d]
            row_e, row_f, row_g, row_h = numbers[query, e], numbers[query, f], numbers[query, g], numbers[query, h]
            sum_a = sum_b = sum_c = sum_d = sum_e = sum_f = sum_g = sum_h = 0.0
            for place in range(queries.shape[1]):
                value = queries[query, place]
                sum_a += value * bank[row_a, place]
                sum_b += value * bank[row_b, place]
                sum_c += value * bank[row_c, place]
                sum_d += value * bank[row_d, place]
                sum_e += value * bank[row_e, place]
                sum_f += value * bank[row_f, place]
                sum_g += value * bank[row_g, place]
                sum_h += value * bank[row_h, place]
            out[query, first], out[query, b], out[query, c], out[query, d] = sum_a, sum_b, sum_c, sum_d
            out[query, e], out[query, f], out[query, g], out[query, h] = sum_e, sum_f, sum_g, sum_h
