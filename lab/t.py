import sys; sys.path.insert(0,'/work/main')
from lab import image, targets
for n in sys.argv[1:]: print(image.ensure(targets.find(n)))
