"""Deep linear networks by dense matrices and repeated sweeps, as the theory is written: slow, and with other
identities than the package uses."""

from __future__ import annotations

import numpy as np

from widelimit.dmft.steps import float64_errors


class Fields:
    """What both networks share: the drives C and D of one layer from the errors and the kernels beside it."""

    def __init__(self, problem):
        self.problem = problem
        self.keep, drive = problem.memory()
        self.times, self.n, self.c = problem.steps + 1, problem.points, problem.outputs
        self.drive = np.zeros((self.times, self.times))
        self.drive[:, :-1] = drive
        self.keep_h, self.keep_g = np.repeat(self.keep, self.n), np.repeat(self.keep, self.c)
        self.error = np.zeros((self.times, self.n, self.c))

    def forward(self, h):
        """The drive of h by g."""
        h = h.reshape(self.times, self.n, self.times, self.n)
        c = np.einsum("ts,tmsn,snc->tmsc", self.drive, h, self.error)
        return self.problem.gamma0 * c.reshape(self.times * self.n, self.times * self.c)

    def backward(self, g):
        """The drive of g by h."""
        g = g.reshape(self.times, self.c, self.times, self.c)
        d = np.einsum("ts,tasc,snc->tasn", self.drive, g, self.error)
        return self.problem.gamma0 * d.reshape(self.times * self.c, self.times * self.n)

    def outputs(self, h, response):
        """Predictions, and the errors that they make."""
        h = h.reshape(self.times, self.n, self.times, self.n)
        initial = response.reshape(self.times, self.n, self.times, self.c).sum(2)
        f = self.keep[:, None, None] * initial / self.problem.gamma0
        f = f + np.einsum("ts,tmsn,snc->tmc", self.drive, h, self.error)
        errors, shares, p = float64_errors(self.problem), self.problem.shares(), self.problem.samples
        self.error = np.zeros_like(self.error)
        for t in range(self.problem.steps):
            self.error[t, :p] = shares[t, :, None] * errors(f[t, :p])
        return f


def start(fields):
    """Kernel of the inputs and the identity, at all times."""
    tiled = (fields.times, fields.times)
    return np.tile(np.asarray(fields.problem.kernel), tiled), np.tile(np.eye(fields.c), tiled)


def dense(problem, *, responses=True):
    """Returns f, H^1..L, G^1..L, gamma0 A^1..L, gamma0 B^0..L-1, <g^l h^l>; without responses, A = B = 0."""
    fields, depth = Fields(problem), problem.depth
    inputs, ones = start(fields)
    h, g = [inputs] * (depth + 1), [ones] * (depth + 2)
    a, b = [0.0] * (depth + 1), [0.0] * (depth + 1)
    cross = [None] * (depth + 1)
    for _ in range(problem.steps + 2):  # every sweep makes one more time exact
        for layer in [*range(1, depth + 1), *range(depth, 0, -1)]:
            c = fields.keep_h[:, None] * a[layer - 1] * responses + fields.forward(h[layer - 1])
            d = fields.keep_g[:, None] * b[layer] * responses + fields.backward(g[layer + 1])
            x = np.linalg.inv(np.eye(len(c)) - c @ d)
            y = np.linalg.inv(np.eye(len(d)) - d @ c)
            u = fields.keep_h[:, None] * h[layer - 1] * fields.keep_h
            r = fields.keep_g[:, None] * g[layer + 1] * fields.keep_g
            h[layer], g[layer] = x @ (u + c @ r @ c.T) @ x.T, y @ (r + d @ u @ d.T) @ y.T
            a[layer], b[layer - 1] = x @ c * fields.keep_g, y @ d * fields.keep_h
            cross[layer] = y @ (d @ u + r @ c.T) @ x.T
        f = fields.outputs(h[depth], a[depth])
    return f, h[1:], g[1:-1], a[1:], b[:-1], cross[1:]


def dense_residual(problem, sweeps):
    """Returns f, H^0..L and G^0..L of a residual network, all layers in one system of equations."""
    fields, layers = Fields(problem), problem.depth + 1
    inputs, ones = start(fields)
    branch = problem.branch_scale * problem.depth**-problem.branch_exponent
    step = branch**2 * problem.branch_rate
    h, g = [inputs] * (layers + 1), [ones] * (layers + 1)  # h[k + 1] is H^k, g[k] is G^k
    size_h, size_g = len(inputs), len(ones)
    a, b = np.zeros((layers, size_h, size_g)), np.zeros((layers, size_g, size_h))
    sum_h = np.kron(np.tril(np.ones((layers, layers))), np.eye(size_h))
    sum_g = np.kron(np.triu(np.ones((layers, layers))), np.eye(size_g))
    keep_u = np.concatenate([fields.keep_h, *[branch * fields.keep_h] * problem.depth])
    keep_r = np.concatenate([*[branch * fields.keep_g] * problem.depth, fields.keep_g])
    for _ in range(sweeps):
        c = [(step if k else 1.0) * fields.forward(h[k]) for k in range(layers)]
        d = [(step if k < layers - 1 else 1.0) * fields.backward(g[k + 1]) for k in range(layers)]
        for k in range(1, layers):
            c[k] = c[k] + branch * fields.keep_h[:, None] * a[k - 1]
            d[k - 1] = d[k - 1] + branch * fields.keep_g[:, None] * b[k]
        c, d = sum_h @ blocks(c), sum_g @ blocks(d)
        x, y = np.linalg.inv(np.eye(len(c)) - c @ d), np.linalg.inv(np.eye(len(d)) - d @ c)
        h_u, h_r = x @ (sum_h * keep_u), x @ c @ (sum_g * keep_r)
        g_r, g_u = y @ (sum_g * keep_r), y @ d @ (sum_h * keep_u)
        u, r = blocks(h[:-1]), blocks(g[1:])
        all_h, all_g = h_u @ u @ h_u.T + h_r @ r @ h_r.T, g_r @ r @ g_r.T + g_u @ u @ g_u.T
        for k in range(layers):
            at_h, at_g = slice(k * size_h, (k + 1) * size_h), slice(k * size_g, (k + 1) * size_g)
            h[k + 1], g[k] = all_h[at_h, at_h], all_g[at_g, at_g]
            a[k], b[k] = h_r[at_h, at_g], g_u[at_g, at_h]
        f = fields.outputs(h[-1], a[-1])
    return f, h[1:], g[:-1]


def blocks(matrices):
    """A block-diagonal matrix."""
    rows, columns = matrices[0].shape
    out = np.zeros((len(matrices) * rows, len(matrices) * columns))
    for k, matrix in enumerate(matrices):
        out[k * rows : (k + 1) * rows, k * columns : (k + 1) * columns] = matrix
    return out
