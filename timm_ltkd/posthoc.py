"""What mends a trained classifier's bias to the classes with many images, without any training."""
import torch

TAU_SWEEP = tuple(round(0.1 * i, 1) for i in range(21))  # 0 to 2, as the authors' code


def tau_normalise(weight: torch.Tensor, tau: float) -> torch.Tensor:
    """w_c / |w_c|^τ: evens out the lengths of the class weights, which grow with the images of a class.

    Source: Kang et al. 2020, arXiv 1910.09217, section 4. τ = 0 leaves them, τ = 1 makes all lengths 1.

    Args:
        weight: Class weights `[C, D]`.
        tau: τ; a class of weight 0 stays so.

    Returns:
        `[C, D]`, in the dtype of `weight`; computed in float64.
    """
    rows = weight.detach().cpu().double()  # mps has no float64
    norms = rows.norm(dim=1, keepdim=True)
    return (rows / torch.where(norms == 0, 1., norms) ** tau).to(weight)


def adjust_logits(logits: torch.Tensor, log_prior: torch.Tensor, tau: float) -> torch.Tensor:
    """z - τ · log π: takes the class prior of the training set out of the logits.

    Source: Menon et al. 2021, arXiv 2007.07314, eq. 9. τ = 0 leaves them; τ = 1 is right for a network whose softmax
    is the posterior under π.

    Args:
        logits: z `[..., C]`.
        log_prior: log π `[C]`, of what the network was trained on.
        tau: τ.

    Returns:
        As `logits`, in float32 at least: half precision would round a rare class's prior away.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(dtype) - (tau * log_prior).to(logits.device, dtype)
