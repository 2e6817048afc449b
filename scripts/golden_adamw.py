# Numbers in the tests of loss.rs and optim.rs. Run by hand: python golden.py
import torch
z=torch.tensor([[0.3,-1.2,2.0,0.1],[5.0,-3.0,0.5,1.5]],dtype=torch.float64); y=torch.tensor([2,1])
for s in (0.,0.1): print('loss',s,torch.nn.functional.cross_entropy(z,y,label_smoothing=s).item())
a=torch.nn.Parameter(torch.tensor([0.5,-1.0,2.0])); b=torch.nn.Parameter(torch.tensor([0.1]))
o=torch.optim.AdamW([dict(params=[a],lr=0.1,weight_decay=0.01),dict(params=[b],lr=0.05,weight_decay=0.0)])
for t in range(5):
    a.grad=torch.sin(3*a.detach()+t); b.grad=torch.sin(3*b.detach()+t)
    n=torch.nn.utils.clip_grad_norm_([a,b],1.0); o.step()
    print([float('%.8g'%v) for v in [n.item(),*a.tolist(),*b.tolist()]],',')
