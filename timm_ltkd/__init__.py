"""Long-tailed knowledge distillation for timm."""
