"""Inner products of queries with rows that are named by their numbers, compiled by numba: see `neighbours`."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# Types are inferred by numba, which has none of its own.

from selfsup.devices.kept import kept


@kept("void(float64[:, ::1], float32[:, ::1], int64[:, ::1], float64[:, ::1])", sums_in_any_order=True)
def products(queries, bank, numbers, out):
    """(Q, D), (N, D), (Q, C) -> (Q, C): of each query with the bank rows of these numbers.

    The order of a sum is the same for every row, so that equal rows have equal products, wherever they stand.
    """
    for query in range(numbers.shape[0]):
        for candidate in range(numbers.shape[1]):
            row = numbers[query, candidate]
            total = 0.0
            for place in range(queries.shape[1]):
                total += queries[query, place] * bank[row, place]
            out[query, candidate] = total
