def deviation_of(e,t,c): return None
