import torch
from torch import nn
class DC(nn.Sequential):
    def __init__(s, i, o): super().__init__(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.Conv2d(o, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU())
class UNet(nn.Module):
    def __init__(s, c=3, n=2, w=(32, 64, 128, 256)):
        super().__init__(); s.enc = nn.ModuleList(DC(i, o) for i, o in zip((c, *w[:-1]), w)); s.pool = nn.MaxPool2d(2)
        s.up = nn.ModuleList(nn.ConvTranspose2d(w[k], w[k-1], 2, 2) for k in (3, 2, 1)); s.dec = nn.ModuleList(DC(2*w[k-1], w[k-1]) for k in (3, 2, 1)); s.out = nn.Conv2d(w[0], n, 1)
    def forward(s, x):
        skips = []
        for i, e in enumerate(s.enc):
            x = e(x)
            if i < 3: skips.append(x); x = s.pool(x)
        for u, d, k in zip(s.up, s.dec, reversed(skips)): x = d(torch.cat([k, u(x)], 1))
        return s.out(x)
def build(): return UNet()
