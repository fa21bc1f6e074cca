from __future__ import annotations
import os
from dataclasses import dataclass, field
from pathlib import Path
from luigi_spendguard.money import *
import configparser
class ConfigError(ValueError): ...
@dataclass(frozen=True)
class VendorSettings:
    name: str; secret: object=field(default=None,repr=False); base_url: object=None; timeout_s: float=80; allowed_endpoints: tuple=()
class Settings:
    def __init__(s, c):
        g=c['spendguard'] if c.has_section('spendguard') else {}
        s.ledger_path=Path(g.get('ledger_url','sqlite:////tmp/spg.db')[len('sqlite:///'):])
        p=lambda k: parse_usd(g[k]) if k in g else None
        s.default_cap=p('default_cap_usd'); s.max_cap=p('max_cap_usd'); s.daily_cap=p('daily_cap_usd')
        s.admin_token=g.get('admin_token'); s.worker_token=g.get('worker_token'); s.vendor_tasks=(); s.on_blocked=g.get('on_blocked','exit'); s.anonymous_read=True; s.replay_days=30
        s.caps={k:parse_usd(v) for k,v in (c['spendguard_caps'].items() if c.has_section('spendguard_caps') else [])}; s.fx={}
        v=c['spendguard_stripe'] if c.has_section('spendguard_stripe') else {}
        s._v=VendorSettings('stripe', v.get('secret'), v.get('base_url'), float(v.get('timeout_s',80)))
    def vendor(s,n): return s._v
    def grant_cap(s,f,a):
        lim=s.caps.get(f, s.max_cap or s.default_cap)
        if a is None: d=s.caps.get(f,s.default_cap); return (d or Micros(0), '' if d else 'set default_cap_usd')
        return (min(a,lim or 0),'')
def load(*a,**k):
    c=configparser.RawConfigParser(); c.optionxform=str
    c.read(os.environ.get('LUIGI_CONFIG_PATH','luigi.cfg')); return Settings(c)
