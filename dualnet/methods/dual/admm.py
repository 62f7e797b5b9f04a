"""The ADMM step of the dual net, equation by equation.

    minimise L2(y) subject to x = y        x = conv3 of net1, y = conv3' of net2, both of z = pool2

Per sample n of a batch of N, after Boyd et al. 2011, section 3.1.1 (scaled form), with one
linearised step in y and one gradient step in x:

    y*_n = y_n - g_n / rho                             net2, g_n = dl_n/dy_n
    E    = rho/(2N) sum_n |x_n - (y*_n - u_n)|^2       net1
    u_n <- u_n + x_n - y_n                             net1, only with --dual sample

Without u and with equal copies (x = y) the gradient of E at x_n is g_n / N, which is the single
net's: tied ADMM is backpropagation, written as messages.  It differs once the copies do.
The thesis writes beta |x - y|^2 without the half (eq. 5.5), so its beta is rho/2 here.
"""

from torch import Tensor

from dualnet import losses


def y_update(y: Tensor, gradient: Tensor, rho: float) -> Tensor:
    """y* = y - g / rho: one step on L2 plus a proximal term.

    y         [N, ...]  activation of net2's copy
    gradient  [N, ...]  g, the gradient of each sample's own loss: N times that of the batch mean
    rho       > 0       loss per squared activation
    """
    return y - gradient / rho


def penalty(x: Tensor, target: Tensor, rho: float) -> Tensor:
    """E = rho/(2N) sum_n |x_n - target_n|^2, a scalar in units of the classification loss."""
    return rho * losses.euclidean(x, target)


def dual_update(u: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """u + x - y: the scaled dual variable gathers the primal residual; all [N, ...]."""
    return u + x - y


def measured_rho(y: Tensor, gradient: Tensor) -> float:
    """The penalty at which both terms of y* weigh the same: mean |g_n| / mean |y_n|.

    A quantised message keeps most of g then.  0 where the gradient is.
    """
    return losses.mean_norm(gradient) / losses.mean_norm(y)


def stability_limit(z: Tensor, lr: float, kernel_area: int) -> float:
    """The largest penalty that is safe for net1's copy: 1 / (lr k^2 mean_n |z_n|^2).

    z            [N, ...]  input of the shared layer
    lr           learning rate of net1
    kernel_area  k^2 of a convolution, 1 of a linear layer: how often an input is used
    The quadratic form of the consistency term has eigenvalues of at most rho k^2 |z|^2, and
    momentum SGD is stable below 2 (1 + momentum) / lr; this stays clear of it by that factor.
    Infinite where z or lr is 0.
    """
    scale = lr * kernel_area * float(losses.squared_norm(z).mean())
    return 1 / scale if scale > 0 else float("inf")


def grown_rho(rho: float, growth: float, limit: float) -> float:
    """The penalty of the next epoch: rho times growth, but not beyond the limit of stability.

    A penalty that was set above the limit by hand stays what it is.
    """
    return max(rho, min(rho * growth, limit))
