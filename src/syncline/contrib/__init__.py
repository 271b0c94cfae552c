"""Integrations with other frameworks. Each needs its extra: `pip install 'syncline[celery]'`.

    syncline.contrib.celery          beat that survives its host, tasks that run once, a result backend
    syncline.contrib.apscheduler     a job store for APScheduler 3, of which one scheduler runs
    syncline.contrib.django          a cache, with locks
    syncline.contrib.torchrun        a rendezvous backend for torchrun
    syncline.contrib.prometheus      a collector for prometheus-client
    syncline.contrib.opentelemetry   gauges for an OpenTelemetry meter
    syncline.contrib.fsspec          snapshots of any machine at URLs: s3://, sftp://, a directory

See docs/contrib/README.md.
"""
