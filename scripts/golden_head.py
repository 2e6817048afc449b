# Numbers in src/train/solve/tests.rs. Run by hand with scikit-learn 1.9: python golden_head.py
import numpy as np
from sklearn.linear_model import LogisticRegression
n,d,k=60,4,3
i,j=np.meshgrid(np.arange(n),np.arange(d),indexing='ij')
y=np.arange(n)*7%5%k
x=np.sin(1.7*i+2.3*j*j+0.4)+0.5*(y[:,None]==j)
x=x.astype(np.float32).astype(np.float64)
m=LogisticRegression(C=1.0,solver='lbfgs',tol=1e-9,max_iter=10000).fit(x,y)
f=lambda a:'['+', '.join('%.7g'%v for v in a)+']'
print('weight [features][classes]'); [print(f(r)+',') for r in m.coef_.T]
print('bias',f(m.intercept_)); print('accuracy',(m.predict(x)==y).mean())
w=np.where(np.arange(n)%3==0,2.0,0.5)
m=LogisticRegression(C=0.1,solver='lbfgs',tol=1e-9,max_iter=10000).fit(x,y,sample_weight=w)
print('weighted C=0.1'); [print(f(r)+',') for r in m.coef_.T]; print('bias',f(m.intercept_))
