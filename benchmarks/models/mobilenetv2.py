import torch
from torch import nn
class CBR(nn.Sequential):
    def __init__(s, i, o, k=3, st=1, g=1): super().__init__(nn.Conv2d(i, o, k, st, k // 2, groups=g, bias=False), nn.BatchNorm2d(o), nn.ReLU6(inplace=True))
class IR(nn.Module):
    def __init__(s, i, o, st, t):
        super().__init__(); h = i * t; s.res = st == 1 and i == o
        l = [CBR(i, h, 1)] if t != 1 else []
        s.conv = nn.Sequential(*l, CBR(h, h, 3, st, h), nn.Conv2d(h, o, 1, bias=False), nn.BatchNorm2d(o))
    def forward(s, x): return x + s.conv(x) if s.res else s.conv(x)
class MNV2(nn.Module):
    def __init__(s, n=10):
        super().__init__(); f = [CBR(3, 32, 3, 2)]; i = 32
        for t, c, k, st in ((1,16,1,1),(6,24,2,2),(6,32,3,2),(6,64,4,2),(6,96,3,1),(6,160,3,2),(6,320,1,1)):
            for j in range(k): f.append(IR(i, c, st if j == 0 else 1, t)); i = c
        f.append(CBR(i, 1280, 1)); s.features = nn.Sequential(*f); s.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, n))
    def forward(s, x): return s.classifier(nn.functional.adaptive_avg_pool2d(s.features(x), (1, 1)).flatten(1))
def build(): return MNV2()
