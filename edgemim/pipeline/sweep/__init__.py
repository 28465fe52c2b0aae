"""Several models at several sizes and precisions for one target, measured one after another: what fits the budget?"""
