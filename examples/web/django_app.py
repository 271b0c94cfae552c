"""Django in one file: gunicorn --preload --workers 4 examples.web.django_app:application"""

import os

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

from syncline import Client

settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="of this example", ALLOWED_HOSTS=["127.0.0.1"])
kv = Client(os.environ["SYNCLINE_ENDPOINTS"])  # before the fork: each worker gets connections of its own
starts = kv.increment("starts")


def visit(request: HttpRequest) -> JsonResponse:
    if request.method != "POST":
        return JsonResponse({}, status=405)
    return JsonResponse({"visits": kv.increment("visits"), "starts": starts, "worker": os.getpid()})


urlpatterns = [path("visits", visit)]
application = get_wsgi_application()
